"""What the kernels of 8-bit integers have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te

from tvm_sched.kernels.base import Form, Kernel, fusable_call
from tvm_sched.kernels.integer.rounding import Rounding


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

    def call(
        self,
        builder: relax.BlockBuilder,
        x: relax.Expr,
        weights: Sequence[relax.Expr],
        form: Form,
        marks: dict,
        rounding: Rounding | None = None,
    ) -> relax.Expr:
        options = {"problem": form.problem, "rounding": rounding, "marks": marks} | self.options(form)
        return fusable_call(builder, self.name, self.compute, x, *weights, **options)
