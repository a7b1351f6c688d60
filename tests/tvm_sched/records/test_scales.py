"""Records of integer kernels hold whatever a network's scales are."""

from dataclasses import replace

import pytest
import torch
from quantised_networks import batches
from torch import nn
from tvm_ffi import structural_hash
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import kernel_of
from tvm_sched.pipeline import Compilation
from tvm_sched.records.database import known_as, workload

ONE = replace(targets.host(), cores=1)


class Residual(nn.Module):
    """What is added has a scale of its own, and the padded values a zero point."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return torch.relu(self.second(x) + x).mean((2, 3))


def network():
    torch.manual_seed(0)
    return prune(Residual(), 16, 0.5).eval()


def images(scale: float = 1.0, shift: float = 0.0, size: int = 8):
    return [scale * each + shift for each in batches(2, 2, 16, size, size)]


def kernels(calibration):
    """The functions that hold kernels of a network so calibrated."""
    program = torch_export.fixed(tvm_sched.quantize(network(), calibration), calibration[0][:1])
    mod = pipeline.fused(torch_export.from_torch(program), Compilation(ONE))
    return [mod[each.value.args[0]] for each in pipeline.kernel_bindings(mod) if kernel_of(mod[each.value.args[0]])]


def hashes(functions, of):
    return [structural_hash(of(func)) for func in functions]


def test_other_scales_and_zero_points_are_the_same_kernels():
    one, other = kernels(images()), kernels(images(3.0, 0.7))
    assert len(one) == 2 and hashes(one, known_as) == hashes(other, known_as)
    assert hashes(one, workload) != hashes(other, workload)  # they stand in the code
    assert not set(hashes(one, known_as)) & set(hashes(kernels(images(size=9)), known_as))


def test_what_is_tuned_in_8_bits_serves_a_network_of_other_ranges(tmp_path):
    options = {"threads": 1, "records": tmp_path, "precision": "int8"}
    small = images(size=4)  # fewer columns than kept channels
    summary = tvm_sched.tune(network(), small[0][:1], trials=2, calibration=small, **options)
    assert summary.failed == 0
    assert {each.first for each in summary.forms} == {"planar 1x16"}  # by estimate, whichever is measured to be faster
    assert {each.task.kernel for each in summary.tasks} <= {"planar 1x16", "planar 1x8"}
    assert all(0 < each.best_ms <= each.default_ms for each in summary.tasks)
    compiled = tvm_sched.compile(network(), small[0][:1], calibration=images(3.0, 0.7, size=4), **options)
    assert {layer.schedule for layer in compiled.explain()} == {"record"}
    assert compiled.manifest["check"]["verified"]


def test_what_cannot_be_tuned_is_refused(tmp_path):
    with pytest.raises(UserError, match="precision auto is made of others: tune float32 and int8"):
        tvm_sched.tune(network(), images()[0], records=tmp_path, precision="auto")
    with pytest.raises(UserError, match="int8 takes calibration data"):
        tvm_sched.tune(network(), images()[0], records=tmp_path, precision="int8")
