"""Results over operands: where it is done, where it must not be, and that numbers stay right."""

import numpy as np
import pytest
import torch
from torch import nn
from tvm import relax
from tvm.tirx import PrimFunc

import tvm_sched
from tvm_sched import pipeline, targets
from tvm_sched.codegen import visited
from tvm_sched.frontend import torch_export
from tvm_sched.passes.graph.relax_tools import is_op
from tvm_sched.pipeline import Compilation


class Residual(nn.Module):
    """Two blocks that add their input, and one whose input is needed again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, *self.convs = (nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(7))
        self.convs = nn.ModuleList(self.convs)

    def forward(self, x):
        x = self.stem(x)
        for one, two in (self.convs[:2], self.convs[2:4]):
            x = torch.relu(two(torch.relu(one(x))) + x)
        return torch.cat([self.convs[5](self.convs[4](x)) + x, x], 1)


class Together(nn.ModuleList):
    """The results of several networks, which share nothing but the input."""

    def forward(self, x):
        return tuple(each(x) for each in self)


def in_place_calls(network, x) -> list[str]:
    """Names of the functions that write over an operand."""
    mod = pipeline.lower(torch_export.from_torch(network.eval(), x), Compilation(targets.host())).mod
    bindings = [binding for block in mod["main"].body.blocks for binding in block.bindings]
    return [binding.value.args[0].name_hint for binding in bindings if is_op(binding.value, "relax.call_tir_inplace")]


def compiled_agrees(network, x, target="host"):
    compiled = tvm_sched.compile(network.eval(), x, target=target, threads=1)
    for _ in range(2):  # what the first call wrote over must not matter to the second
        found, wanted = compiled(x.numpy()), network(x)
        if not isinstance(wanted, tuple):
            found, wanted = [found], [wanted]
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            np.testing.assert_allclose(one, other.detach().numpy(), rtol=0, atol=1e-4, err_msg=f"output {number}")


def test_residual_sums_are_written_over_residuals_that_die():
    network, x = Residual(), torch.randn(1, 3, 12, 12)
    assert len(in_place_calls(network, x)) == 2
    compiled_agrees(network, x)


def test_a_view_keeps_its_memory():
    """The reshaped input of the sum is returned as well."""

    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x):
            y = self.one(x)
            view = y.reshape(4, 8, 32)
            z = self.two(y) + y
            return torch.cat([z.reshape(4, 8, 32), view], 1)

    network, x = Viewed(), torch.randn(32, 32)
    assert in_place_calls(network, x) == []
    compiled_agrees(network, x)


def test_the_input_and_constants_are_never_written_over():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.table = nn.Linear(16, 16), nn.Parameter(torch.randn(8, 16))

        def forward(self, x):
            return self.linear(x) + x + torch.sin(self.table) * 2

    network, x = Scaled(), torch.randn(8, 16)
    given = x.numpy().copy()
    assert in_place_calls(network, x) == []
    compiled_agrees(network, x)
    np.testing.assert_array_equal(x.numpy(), given)


def test_an_operand_that_is_read_elsewhere_too_is_left_alone():
    """x + x's own convolution: the convolution reads the neighbours of what it would overwrite."""

    class Neighbours(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x):
            x = self.stem(x)
            return torch.relu(self.conv(x) + x)

    network, x = Neighbours(), torch.randn(1, 3, 9, 9)
    assert in_place_calls(network, x) == []
    compiled_agrees(network, x)


HALVES = {
    "two pieces": lambda y, p, q: torch.cat([p(y), q(y)], 1) + y,
    "three pieces": lambda y, p, q: torch.cat([p(y), q(y), p(y)], 1)[:, : y.shape[1]] + y,
    "a piece and the input itself": lambda y, p, q: torch.cat([p(y), y[:, ::2]], 1) + y,
    "other axis": lambda y, p, q: torch.cat([y[:1] * 2, y[1:] - 1], 0) + y,
    "the input twice": lambda y, p, q: torch.cat([p(y), q(y)], 1) * y + y,
    "one weight twice": lambda y, p, q: torch.cat([p(y), p(y)], 1) + y,
}


@pytest.mark.parametrize(("width", "target"), [(40, "host"), (64, "host"), (40, "x86-avx2")])
def test_halves_joined_and_the_input_added(width, target):
    """GhostNet's block. Of 20 numbers the last vector is cut short, and TVM computes some of them twice: what was added
    to the input then must not be added again.
    """

    class Halves(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.stem, self.p, self.q = (nn.Linear(width, out) for out in (width, width // 2, width // 2))
            self.form = form

        def forward(self, x):
            return torch.tanh(self.form(self.stem(x), self.p, self.q))

    torch.manual_seed(0)
    compiled_agrees(Together(map(Halves, HALVES.values())), torch.randn(2, width), target)


MIRRORED = (
    lambda y: y + y.flip(-1),
    lambda y: y.roll(3, -1) - y,
    lambda y: y.lerp(y.flip(1), 0.3),
    lambda y: y * y[..., :1],
    lambda y: y + y.transpose(-1, -2),
)


def test_a_result_and_other_places_of_it():
    class Mirror(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)
            self.form = form

        def forward(self, x):
            return self.two(self.form(self.one(x)))

    compiled_agrees(Together(map(Mirror, MIRRORED)), torch.randn(1, 3, 9, 9))


def test_a_padded_pool_and_a_residual_that_dies():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 20, 1), nn.Conv2d(20, 20, 1)

        def forward(self, x):
            y = self.stem(x)
            z = torch.relu(self.conv(y))
            return self.conv(nn.functional.avg_pool2d(y, 3, 1, 1) * 2 + z)

    for target in ("host", "x86-avx2"):
        compiled_agrees(Pooled(), torch.randn(1, 3, 11, 11), target)


@pytest.fixture(scope="module")
def lowered():
    imported = torch_export.from_torch(Residual().eval(), torch.randn(1, 3, 12, 12))
    return pipeline.lower(imported, Compilation(targets.host())).mod


def test_lowered_modules_stay_well_formed(lowered):
    relax.analysis.well_formed(lowered)  # raises where it is not


def test_a_function_that_nothing_calls_any_more_is_not_compiled(lowered):
    functions = [function for function in lowered.functions.values() if isinstance(function, relax.Function)]
    called = {call.args[0].name_hint for function in functions for call in visited(function, relax.Call) if call.args}
    assert called == {var.name_hint for var, function in lowered.functions.items() if isinstance(function, PrimFunc)}
