"""float16 bundles pass their check with the Cortex-A76's own half precision, as far as an emulator tells.
`scripts/check_boards.py --precision float16` does the same at full size.
"""

import json
import os
import shlex
import subprocess
import tarfile

import pytest
import torch
from torch import nn
from zeros import calibrate, prune

import tvm_sched
from subp import cli
from subp.deployment.random_networks import random_network
from subp_contract.errors import UserError
from tvm_sched.deploy import toolchain, wheels

SHARE = 0.02  # of the largest output, that an error may be


def checked(module: nn.Module, x: torch.Tensor, folder, emulator: list[str]) -> dict:
    """What `run.sh --check` says of the network's bundle in float16."""
    try:
        toolchain.program_compiler("aarch64")
        wheels.runtime_files("aarch64")
    except UserError as reason:
        pytest.skip(str(reason))
    tvm_sched.compile(module, x, target="cortex-a76", threads=1, precision="float16").save(folder / "net.so")
    assert cli.exit_code(["bundle", str(folder / "net.so"), "-o", str(folder / "net.tar.gz")]) == 0
    with tarfile.open(folder / "net.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    environment = os.environ | {"RUN_UNDER": shlex.join(emulator)}
    command = [folder / "net" / "run.sh", "--check", "--json"]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def test_every_kind_of_layer_passes_the_check(debian_11, tmp_path):
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for conv in (
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.Conv2d(64, 64, 1),
    ):
        layers += [conv, nn.BatchNorm2d(conv.out_channels), nn.Hardswish()]
    layers += [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10), nn.Softmax(-1)]
    network = calibrate(prune(nn.Sequential(*layers), 16, 0.25), torch.randn(8, 3, 32, 32))
    said = checked(network, torch.randn(1, 3, 32, 32), tmp_path, debian_11)
    assert said["check"] == "ok" and 0 < said["max_abs_error"] < SHARE  # of probabilities


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_whole_networks_pass_the_check(name, debian_11, tmp_path):
    network = random_network(name, n=16, sparsity=0.75, seed=0, size=64, batch=1)
    assert checked(network.module, network.example_input, tmp_path, debian_11)["check"] == "ok"
