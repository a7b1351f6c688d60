"""What the kernels of 8-bit integers have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, te

from tvm_sched.kernels.base import Form, Kernel, Problem, fusable_call
from tvm_sched.kernels.integer.rounding import ONES_BITS, Rounding
from tvm_sched.kernels.kept_channels import counted


class IntegerKernel(Kernel):
    """A kernel whose `compute` takes x, the packed weights and what `rounding` takes, and as options `problem`,
    `rounding`, `marks`, and those of the form.
    """

    dtypes = ("uint8", "int8")
    rounds = True
    compute: Callable[..., te.Tensor]

    @abstractmethod
    def options(self, form: Form) -> dict[str, Any]:
        """What `compute` takes besides."""

    def arguments(
        self, problem: Problem, infos: Sequence[tuple[str, tuple[int, ...]]], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """As of every kernel; what sums begin with are the ones by which they are fractions (`begun_sums.py`)."""
        arrays = super().arguments(problem, infos, rng)
        begun = [dtype == "int32" and len(shape) == 1 for dtype, shape in infos]
        return [np.full_like(array, ONES_BITS) if own else array for array, own in zip(arrays, begun, strict=True)]

    def channels(self, builder: relax.BlockBuilder, given: Sequence[relax.Expr], form: Form) -> Sequence[relax.Expr]:
        """What stands behind the weights, if anything does: where it is the indices of kept channels, these as bits."""
        if form.n is None or not form.problem.conv.indexed:
            return given
        (indices,) = given
        return [counted(builder, np.from_dlpack(indices.value), form.problem.conv.channels)]

    def multiplied(self, builder: relax.BlockBuilder, data: relax.Expr, form: Form) -> relax.Expr:
        """The packed weights as they are multiplied: by a call of its own where they are stored narrower, which
        `hoist_constants` moves to where the network is loaded.
        """
        return data

    def call(
        self,
        builder: relax.BlockBuilder,
        x: relax.Expr,
        weights: Sequence[relax.Expr],
        form: Form,
        marks: dict,
        rounding: Rounding | None = None,
    ) -> relax.Expr:
        weights = [
            self.multiplied(builder, weights[0], form),
            *self.channels(builder, weights[1:2], form),
            *weights[2:],
        ]
        options = {"problem": form.problem, "rounding": rounding, "marks": marks} | self.options(form)
        return fusable_call(builder, self.name, self.compute, x, *weights, **options)
