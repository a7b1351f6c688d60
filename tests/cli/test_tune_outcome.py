"""What `subp tune` makes of what was measured."""

from dataclasses import replace
from math import inf, nan

import pytest

from subp.cli.tune import described, require_measured
from subp_contract.errors import CheckFailed
from tvm_sched.tuning.forms import FormResult
from tvm_sched.tuning.search import TuningSummary
from tvm_sched.tuning.tiles import Named, TaskResult


def summary(*best_ms: float) -> TuningSummary:
    tasks = [TaskResult(Named(f"f{number}", 1, (f"conv{number}",)), 1, ms, ms) for number, ms in enumerate(best_ms)]
    return TuningSummary(tasks, [], len(tasks), sum(ms == inf for ms in best_ms), 1.0, "the board said no")


def test_a_kernel_that_failed_in_every_tile_is_a_failure_and_one_that_was_not_tried_is_none():
    require_measured(summary(1.0, nan))
    with pytest.raises(CheckFailed, match="no tile of conv1 and 1 more could be built and run: the board said no"):
        require_measured(summary(1.0, inf, inf))


def test_a_line_tells_what_was_done_and_no_times_where_there_are_none():
    told = described(summary(1.0, 2.0))
    assert told == "2 of 2 kernels, 2 tiles measured: 3.000 -> 3.000 ms together, in 1 s"
    assert described(summary(nan)) == "0 of 1 kernels, 1 tiles measured, in 1 s"
    forms = [FormResult("conv0", "8x8", {"direct": 1.0}, "direct", "direct")]
    assert described(replace(summary(1.0), forms=forms)).startswith("1 layers in several forms, 1 of 1 kernels")
