"""Quantised networks with 1xN zeros, held against PyTorch: on this machine, and as bundles for Arm's cores, with and
without dot products, under an emulator.
"""

import json
import os
import shlex
import subprocess
import tarfile

import arm64_root
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zeros import calibrate, prune

import tvm_sched
from subp import cli
from subp_contract.errors import UserError
from tvm_sched.deploy import toolchain, wheels
from tvm_sched.frontend import torch_export
from tvm_sched.verification.quantised import allowances

SHAPE = (1, 3, 64, 64)


def conv_bn(channels, out_channels, kernel=1, stride=1, groups=1, act=nn.ReLU):
    conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), act())


class BasicBlock(nn.Module):
    """ResNet-18's."""

    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.a = conv_bn(channels, out_channels, 3, stride)
        self.b = conv_bn(out_channels, out_channels, 3, act=nn.Identity)
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else conv_bn(channels, out_channels, 1, stride, act=nn.Identity)

    def forward(self, x):
        return F.relu(self.b(self.a(x)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """MobileNetV2's."""

    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.residual = stride == 1 and channels == out_channels
        wide = 4 * channels
        self.body = nn.Sequential(
            conv_bn(channels, wide, act=nn.ReLU6),
            conv_bn(wide, wide, 3, stride, groups=wide, act=nn.ReLU6),
            conv_bn(wide, out_channels, act=nn.Identity),
        )

    def forward(self, x):
        return self.body(x) + x if self.residual else self.body(x)


def resnet():
    stem = nn.Sequential(conv_bn(3, 32, 7, 2), nn.MaxPool2d(3, 2, 1))
    blocks = [BasicBlock(32, 32, 1), BasicBlock(32, 64, 2), BasicBlock(64, 128, 2)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def mobilenet():
    sizes = [(16, 24, 2), (24, 24, 1), (24, 32, 2)]
    blocks = [InvertedResidual(*each) for each in sizes]
    head = [conv_bn(32, 128, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.ReLU6), *blocks, *head)


@pytest.fixture(scope="module")
def programs():
    """Name -> quantised program."""
    made = {}
    for name, network in (("resnet", resnet), ("mobilenet", mobilenet)):
        torch.manual_seed(0)
        network = calibrate(prune(network(), 8, 0.25), torch.randn(8, *SHAPE[1:]))
        batches = [torch.randn(2, *SHAPE[1:]) for _ in range(2)]
        made[name] = tvm_sched.quantize(network, batches)
    return made


def require_integers(artifact):
    """No layer is left in float32."""
    layers = artifact.manifest["layers"]
    assert [layer["name"] for layer in layers if layer["precision"] != "int8"] == []


@pytest.mark.parametrize(("name", "target"), [("mobilenet", "host"), ("resnet", "x86-avx2")])
def test_outputs_are_pytorchs_within_two_steps_of_what_is_quantised_last(programs, name, target):
    program, x = programs[name], torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    artifact = tvm_sched.compile(program, x, target=target, threads=1, check=False)
    require_integers(artifact)
    with torch.no_grad():
        expected = program.module()(x)
    core = torch_export.from_torch(torch_export.fixed(program, x), x).core
    (allowed,) = allowances(core, [x.numpy()])
    assert abs(artifact(x) - expected).max() <= allowed < 0.2 * expected.abs().max()


@pytest.fixture(scope="module")
def check_on_board(programs, debian_11, tmp_path_factory):
    """check_on_board(network's name, target): what a bundle's check says, on that target's CPU."""
    try:
        toolchain.program_compiler("aarch64")
        wheels.runtime_files("aarch64")
    except UserError as reason:
        pytest.skip(str(reason))

    def check_on_board(name, target):
        folder = tmp_path_factory.mktemp("board")
        artifact = tvm_sched.compile(programs[name], torch.zeros(SHAPE), target=target)
        require_integers(artifact)
        artifact.save(folder / "net.so")
        assert cli.exit_code(["bundle", str(folder / "net.so"), "-o", str(folder / "net-int8.tar.gz")]) == 0
        with tarfile.open(folder / "net-int8.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        environment = os.environ | {"RUN_UNDER": shlex.join(arm64_root.emulated(arm64_root.root(), target))}
        command = [folder / "net-int8" / "run.sh", "--check", "--json"]
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    return check_on_board


@pytest.mark.parametrize(("name", "target"), [("resnet", "cortex-a76"), ("mobilenet", "cortex-a72")])
def test_bundles_pass_their_check_on_cores_with_and_without_dot_products(check_on_board, name, target):
    assert check_on_board(name, target)["check"] == "ok"
