"""A product of two values of a quantised network: what a gate does (squeeze and excite), and hardswish."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm import relax, te, tirx

from tvm_sched.kernels.integer.rounding import rounded
from tvm_sched.passes.integer.linear_form import INT32, Linear, Operands, clipped, emitted, shape, total

BYTES = 256  # more than any zero point


@dataclass(frozen=True, eq=False)
class Product:
    """factor * one * other, each clipped as it is, not yet computed."""

    one: Linear
    other: Linear
    factor: float
    call: relax.Call  # as the network has it

    def times(self, factor: float, call: relax.Call) -> "Product":
        """The product with a number, which `call` is."""
        return replace(self, factor=self.factor * factor, call=call)


def multiplied(builder: relax.BlockBuilder, product: Product, scale: float, zero_point: int, dtype: str) -> relax.Expr:
    """clip(round(product / scale + zero_point)) in an 8-bit type."""
    both = product.one, product.other
    operands = [Operands.of(value) for value in both]
    tensors = [tensor for each in operands for tensor in each.tensors]
    options = {
        "numbers": [each.numbers for each in operands],
        "bounds": [(value.low, value.high) for value in both],
        "factor": product.factor / scale,
        "zero_point": zero_point,
        "limits": (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)),
        "dtype": dtype,
        "fits": abs(product.factor) / scale * product.one.most * product.other.most + BYTES < INT32,
    }
    made = partial(requantize_product, **options)
    return emitted(
        builder, requantize_product.__name__, made, [*tensors, *(x for each in operands for x in each.given)]
    )


def requantize_product(
    *tensors: te.Tensor,
    numbers: list,
    bounds: list,
    factor: float,
    zero_point: int,
    limits: tuple[int, int],
    dtype: str,
    fits: bool,
) -> te.Tensor:
    """round(clip(sum) * clip(sum) * factor + zero_point), clipped, in an 8-bit type. `tensors`: the terms of both, then
    what they are multiplied with.
    """
    counts = [len(each) - 1 for each in numbers]
    terms, rest = tensors[: sum(counts)], list(tensors[sum(counts) :])
    split = []  # of each its terms, then its constants
    for each, first in zip(numbers, (0, counts[0]), strict=True):
        given = [rest.pop(0) for number in each if number is None]
        split.append([*terms[first : first + len(each) - 1], *given])
    extents = shape(tensors)

    def element(*position):
        one, other = (
            clipped(total(own, each, position, extents), *bound)
            for own, each, bound in zip(split, numbers, bounds, strict=True)
        )
        value = one * other * tirx.const(factor, "float32") + tirx.const(zero_point, "float32")
        return rounded(value, limits, dtype, fits)

    return te.compute(extents, element, name="requantize_product")
