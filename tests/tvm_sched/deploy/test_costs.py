"""What an artifact says that its network costs: multiply-adds, stored weights, memory; and what a call costs beside its
kernels.
"""

import numpy as np
import pytest
import torch
from torch import nn
from zeros import prune

import tvm_sched
from tvm_sched.bench import memory
from tvm_sched.bench.overhead import Overhead

KIB = 1024


def cost(layers: list[nn.Module], shape: tuple[int, ...]):
    torch.manual_seed(0)
    return tvm_sched.compile(prune(nn.Sequential(*layers), 16, 0.25).eval(), torch.zeros(shape), threads=1).cost()


def test_kept_multiply_adds_are_those_of_stored_blocks():
    made = cost([nn.Conv2d(16, 32, 1, bias=False), nn.ReLU()], (2, 16, 5, 5))
    assert (made.dense_macs, made.kept_macs) == (2 * 25 * 32 * 16, 2 * 25 * 32 * 4)
    assert made.stored_bytes == 4 * 32 * 4


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_has_the_multiply_adds_of_its_groups(groups):
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, groups=groups)
    made = tvm_sched.compile(layer.eval(), torch.zeros(1, 64, 10, 10), threads=1).cost()
    assert made.dense_macs == made.kept_macs == 64 * 64 * 64 * 9 // groups


def test_a_depthwise_convolution_keeps_all():
    made = cost([nn.Conv2d(32, 32, 3, groups=32)], (1, 32, 6, 6))
    assert (made.dense_macs, made.kept_macs, made.stored_bytes) == (16 * 32 * 9, 16 * 32 * 9, 4 * 32 * 9)


def test_winograd_counts_as_direct_convolution_and_its_weights_are_prepared():
    torch.manual_seed(0)
    artifact = tvm_sched.compile(
        nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, bias=False)).eval(), torch.zeros(1, 128, 28, 28), threads=1
    )
    (layer,) = artifact.explain()
    assert layer.kernel.startswith("winograd")
    assert layer.kept_macs == layer.macs == 28 * 28 * 128 * 128 * 9
    prepared = artifact.manifest["memory"]["prepared"]
    assert prepared in (4 * 128 * 128 * 16, 4 * 128 * 128 * 36)
    weights = artifact.manifest["memory"]["weights"]
    assert 0 <= weights - 4 * 128 * 128 * 9 < 8 * KIB  # the bias of zeros, the transform's own matrix
    assert artifact.cost().weights_bytes == weights + prepared


def test_a_layer_of_zeros_costs_nothing():
    layer = nn.Conv2d(16, 16, 1)
    nn.init.zeros_(layer.weight)
    made = tvm_sched.compile(layer.eval(), torch.zeros(1, 16, 4, 4), threads=1).cost()
    assert (made.dense_macs, made.kept_macs, made.stored_bytes) == (16 * 16 * 16, 0, 0)


def test_the_workspace_holds_at_least_the_two_largest_neighbours():
    made = cost([nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 16, 3, stride=2)], (1, 16, 20, 20))
    assert 4 * (64 * 400 + 16 * 81) <= made.workspace_bytes <= 4 * (2 * 64 * 400 + 2 * 16 * 400)


def test_an_artifact_is_loaded_and_its_growth_measured(tmp_path):
    module = nn.Conv2d(16, 16, 1).eval()
    tvm_sched.compile(module, torch.zeros(1, 16, 4, 4), threads=1).save(tmp_path / "net.so")
    artifact, grown = memory.load_measured(tmp_path / "net.so", threads=1)
    x = np.ones((1, 16, 4, 4), "float32")
    with torch.no_grad():
        np.testing.assert_allclose(artifact(x), module(torch.from_numpy(x)).numpy(), atol=1e-6)
    assert grown is None or 0 <= grown < 1 << 30


def test_memory_is_read_from_the_systems_own_account(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n")
    assert (memory.status("VmHWM", tmp_path), memory.start_peak(tmp_path)) == (2048 * KIB, 1024 * KIB)
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert memory.status("VmSwap", tmp_path) is None
    assert memory.status("VmRSS", tmp_path / "none") is memory.start_peak(tmp_path / "none") is None


def test_the_overhead_of_a_network_adds_up():
    overhead = Overhead(call_us=4.0, layer_us=0.5)
    assert overhead.network_us == 4 + 59 * 0.5
    assert "34 us for 60 (goal 50 us: yes)" in str(overhead)
    assert "NO" in str(Overhead(5.0, 1.0))
