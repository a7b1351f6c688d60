"""Estimates of kernels and networks: from loop to layer to network, with the pipes' model replaced by two multiply-adds
a cycle.
"""

from dataclasses import astuple, replace
from functools import cache

import pytest
import torch
from torch import nn
from tvm.ir import GenericConst
from tvm.s_tir import Schedule
from zeros import prune

from tvm_sched import codegen, pipeline, targets
from tvm_sched.estimation import machine_model
from tvm_sched.estimation.estimate import RASPBERRY_PI_5, Board, Estimator
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import direct_conv2d, kernel_of
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.register_tile import Tile, cycles
from tvm_sched.pipeline import Compilation

A76 = replace(targets.CORTEX_A76, cores=1)
X = torch.zeros(1, 128, 14, 14)
FAST = Board(ghz=1.0, dram_gb_s=1e9, last_cache_bytes=2**20)


@pytest.fixture(autouse=True)
def pipes(monkeypatch):
    """Every loop at half a cycle a multiply-add; returns the loops that were looked at."""
    seen = []
    monkeypatch.setattr(machine_model, "require", lambda target: None)
    monkeypatch.setattr(machine_model.Loop, "cycles", lambda loop, target: seen.append(loop) or loop.fmas / 2)
    return seen


@cache
def lowered(density: float = 0.25):
    """A 1x1 layer and ReLU as fused functions."""
    torch.manual_seed(0)
    module = prune(nn.Sequential(nn.Conv2d(128, 64, 1), nn.ReLU()), 16, density).eval()
    return pipeline.fused(torch_export.from_torch(module, X), Compilation(A76))


def kernel_function(mod):
    """The function that holds one of our kernels."""
    (func,) = (mod[name] for name in mod.get_global_vars() if "direct_conv2d" in name.name_hint)
    return func


def test_a_kernel_takes_its_main_loop_times_its_trip_counts(pipes):
    func = kernel_function(lowered())
    guess = Estimator(A76).guess(func)
    sch = Schedule(pipeline.IRModule({"main": func}))
    kernel, problem = kernel_of(func), direct_conv2d.problem_of(sch)
    assert kernel is direct_conv2d.KERNEL and guess.tile in kernel.tiles(problem, A76)
    assert guess.cycles == pytest.approx(cycles(problem, guess.tile, A76, fma_cycles=0.5))
    assert guess.cycles >= problem.macs / A76.lanes / A76.fma_per_cycle
    assert len(pipes) >= 1 and all(loop.stack == 0 for loop in pipes)


def test_a_loop_is_looked_at_once(pipes):
    func, loops = kernel_function(lowered()), {}
    estimator = Estimator(A76, loops)
    first, looked = estimator.guess(func), len(pipes)
    assert estimator.guess(func) is first
    assert Estimator(A76, loops).guess(func) == first
    assert len(pipes) == looked == len(loops)


def test_multiply_adds_of_the_loop_decide_the_step():
    work = ConvProblem(1, 28, 28, 32, 4, 8, 16)
    slow, fast = (cycles(work, Tile(1, 4, 1, 1), A76, fma_cycles=each) for each in (1.0, 0.5))
    tiles, sums = 28 * 28 / 4 * 4, 4 * 4
    assert slow - fast == pytest.approx(tiles * 8 * sums * 0.5, rel=1e-2)  # what else is done beside them adds to both


def test_a_call_takes_the_longer_of_cores_and_dram():
    mod = lowered()
    estimator = Estimator(A76)
    quick = estimator.network_seconds(mod, FAST)
    assert estimator.network_seconds(mod, replace(FAST, ghz=2.0)) == pytest.approx(quick / 2)
    stored = sum(
        codegen.bytes_of(arg.ty)
        for binding in pipeline.kernel_bindings(mod)
        for arg in binding.value.args[1]
        if isinstance(arg, GenericConst)
    )
    assert stored >= 4 * 32 * 16 * 4
    assert estimator.network_seconds(mod, replace(FAST, dram_gb_s=1e-9)) == pytest.approx(stored)


def test_skipped_blocks_take_no_time():
    dense, sparse = (Estimator(A76).network_seconds(lowered(density), RASPBERRY_PI_5) for density in (1.0, 0.25))
    assert 1.5 < dense / sparse < 4


def test_a_tile_is_plain_numbers():
    assert all(type(number) is int for number in astuple(Estimator(A76).guess(kernel_function(lowered())).tile))
