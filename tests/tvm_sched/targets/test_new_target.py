"""A CPU that nothing here has heard of: a JSON file is all it takes."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from zeros import prune

import tvm_sched
from tvm_sched import targets

CPU = {
    "base": "x86-avx2",
    "cpu": "alderlake",
    "cores": 2,
    "l1_bytes": 48 * 1024,
    "l1_ways": 12,
    "l2_bytes": 1280 * 1024,
    "costs": {"measured_on": "nothing: invented", "l2_bytes_per_cycle": 48, "transpose_cycles": 2},
}
COSTLY = CPU | {"costs": CPU["costs"] | {"transpose_cycles": 5000}}


def written(folder, content) -> str:
    """The file of that target."""
    (folder / "new_cpu.json").write_text(json.dumps(content))
    return str(folder / "new_cpu.json")


@pytest.fixture
def network():
    """(a network of two sparse layers in blocks of 1x4, its input)"""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(128, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 1), nn.ReLU())
    return prune(layers, 4, 0.25).eval(), torch.randn(1, 128, 16, 16)


def test_a_network_runs_on_it(network, tmp_path):
    module, x = network
    compiled = tvm_sched.compile(module, x, target=written(tmp_path, CPU), threads=1)
    manifest = compiled.manifest
    assert (manifest["target"], manifest["cpu"]) == ("new_cpu", "alderlake")
    if manifest["arch"] != targets.host().arch or not set(manifest["cpu_flags"]) <= targets.cpu_flags():
        pytest.skip("compiled; this machine cannot run it")
    np.testing.assert_allclose(compiled(x.numpy()), module(x).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_kernels_are_chosen_by_its_costs(network, tmp_path):
    module, x = network
    kernels = [
        [layer.kernel for layer in tvm_sched.compile(module, x, target=written(tmp_path, cpu), threads=1).explain()]
        for cpu in (CPU, COSTLY)
    ]
    assert kernels[0] == ["pixel lanes 1x4"] * 2
    assert not any("pixel lanes" in kernel for kernel in kernels[1])
