"""The peak kernel computes what it says, and its loop holds multiply-adds and nothing else."""

import re

import numpy as np
import pytest
import tvm

from tvm_sched import targets
from tvm_sched.bench import peak
from tvm_sched.bench.latency import measure

FMA = re.compile(r"\tv?f(madd231ps|mla)\t[^(\[]*$")  # of registers: an address has brackets
COUNTING = re.compile(r"\t(add|sub|inc|dec|cmp|test)\w*\t[^(\[]*$")
# From a label to the jump back to it.
LOOP = re.compile(r"^(\.LBB\w+):\n((?:\t.*\n)*?)\t(?:j|b\.)\w+\t\1$", re.MULTILINE)


@pytest.mark.parametrize(("threads", "iterations"), [(1, 0), (1, 1), (1, 1000), (1, peak.ITERATIONS), (3, 1000)])
def test_every_accumulator_holds_its_start_plus_a_product_an_iteration(threads, iterations):
    kernel = peak.Peak(threads, iterations)
    kernel()
    assert kernel.sums.shape == (threads, peak.VECTORS, targets.host().lanes)
    # Whole numbers below 2^24: exact.
    assert np.array_equal(kernel.sums, kernel.start + np.float32(iterations) * kernel.a * kernel.b)


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512", "cortex-a76"])
def test_the_loop_holds_multiply_adds_of_registers_and_its_own_counting_only(name):
    target = targets.get(name)
    module = tvm.IRModule({"main": peak.kernel(target.lanes, threads=1)})
    assembly = tvm.compile(module, target=target.tvm()).mod.inspect_source("asm")
    code = "".join(f"{line}\n" for line in assembly.splitlines() if not re.match(r"\t\.|\.Ltmp", line))
    loops = [body.splitlines() for _, body in LOOP.findall(code) if FMA.search(body.splitlines()[0])]
    assert loops
    for loop in loops:
        adds = [line for line in loop if FMA.search(line)]
        assert len(adds) % peak.VECTORS == 0
        assert all(COUNTING.search(line) for line in loop if line not in adds)


def test_gflops_counts_two_operations_a_multiply_add():
    kernel = peak.Peak(1, 1000)
    assert kernel.gflops(ms=1.0) == pytest.approx(2 * 1000 * peak.VECTORS * targets.host().lanes * 1e-6)


def test_a_peak_is_a_candidate_like_any_other():
    kernel = peak.of(1)
    timing = measure({"peak": kernel.candidate}, seconds=0.05)["peak"]
    assert kernel.gflops(timing.min_ms) >= kernel.gflops(timing.median_ms) > 1
    assert peak.of(1) is kernel
