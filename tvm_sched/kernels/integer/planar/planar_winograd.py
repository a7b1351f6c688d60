"""Winograd's F(2,3) over 1xN blocks of 8-bit integers, exact: lanes over tiles of 2x2 outputs, NCHW, sums in int32.

Where a dot product multiplies int16, factors of 8 bits leave half of it empty. What F(2,3) (Lavin and Gray, arXiv
1509.09308) multiplies fits there: sums of four pixels have 11 bits, and weights transformed by 2G instead of G, which
makes whole numbers of them, 12. So a 3x3 kernel takes 16 products for 4 outputs instead of 36, and what comes out is
four times the sums of direct convolution, exactly: nothing is rounded.

    V[b, g, t, p, q, k, i*J + j] = (B^T X B)[p, q]     X: channel indices[g, k*J + j] of the 4x4 pixels of tile t's i-th
    M[b, g*N + l, t, p, q, i]    = sum_{k, j} U[g, p, q, k, l, j] * V[b, g, t, p, q, k, i*J + j]
    S[b, t, o, r, 2*i + s]       = (A^T M[b, o, t, :, :, i] A)[r, s] / 4                               r, s: 0 or 1
    y[b, o, h, w]                = S[place of (b, o, h, w)]

`x [B, C, H, W]` uint8 or int8, `U [G, 4, 4, K, N, J]` int16, made of `data [G, K, 3, 3, N, J]` int8 when the network is
loaded (`transform_weight`), `indices [G, K*J]` int32, `y [B, O, H', W']` int32. A tile's 4x4 pixels begin 2 further on
than its neighbour's: images lie in planes as those of a 4x4 kernel of stride 2 do (`planes.py`), and a tile `t` is of
whole rows of such 2x2 tiles (`winograd_schedule.row_of` says how far apart).
"""

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.s_tir import Schedule

from subp_contract import pattern
from tvm_sched.kernels.base import OPAQUE, Form, least_cycles
from tvm_sched.kernels.integer.dots import Dot, dot_of
from tvm_sched.kernels.integer.planar.planar_conv2d import PlanarConv2d, planar_problem
from tvm_sched.kernels.integer.planar.planes import Layout, divided, padded_pixel, up
from tvm_sched.kernels.integer.planar.problem import PlanarProblem, problem_of
from tvm_sched.kernels.integer.planar.reading import interleaved, operands, planes_of
from tvm_sched.kernels.integer.planar.winograd_schedule import (
    HALF_INPUT,
    HALF_OUTPUT,
    INPUT,
    MIXED,
    NAME,
    OUTPUT,
    RESIDUAL,
    RESULT,
    ROUNDED,
    F,
    cycles,
    row_of,
    run_of,
    schedule,
    tiles,
)
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors
from tvm_sched.kernels.winograd_conv2d import pick
from tvm_sched.targets import Target

MOST_POSITIONS = 256  # 2x2 tiles that are computed together
MOST_LAYOUTS = 4  # of a layer, that are looked at
INT32 = 1 << 31
SCALE = 4  # what comes out is so many times the sums


def transform_weight(data: te.Tensor) -> te.Tensor:
    """U `[G, 4, 4, K, N, J]` int16 of packed blocks `data [G, K, 3, 3, N, J]` int8."""
    block_rows, groups, taps, _, n, group = data.shape
    doubled = [[int(2 * number) for number in row] for row in F.weight]  # 2G

    def transformed(p, values: list):
        made = [sum(v * f for v, f in zip(values, row, strict=True) if f) for row in doubled]
        chosen = made[-1]
        # No `Select`, which loads for all rows: with indices that TVM has simplified for one, beside the weights.
        for row, number in reversed(list(enumerate(made[:-1]))):
            chosen = tirx.if_then_else(p == row, number, chosen)
        return chosen.astype("int16")

    half = te.compute(
        (block_rows, F.size, taps, groups, n, group),
        lambda g, p, s, k, lane, j: transformed(p, [data(g, k, r, s, lane, j).astype("int16") for r in range(F.taps)]),
        name="half_weight",
    )
    return te.compute(
        (block_rows, F.size, F.size, groups, n, group),
        lambda g, p, q, k, lane, j: transformed(q, [half(g, p, s, k, lane, j) for s in range(F.taps)]),
        name="whole_weight",
    )


def conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    *more: te.Tensor,
    problem: PlanarProblem,
    out_channels: int,
    zero_point: int = 0,
    rounding: Rounding | None = None,
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order; `weight` is U, the others as `planar_conv2d.conv2d` takes them."""
    indices, added, more = operands(more, problem, rounding)
    layout, dot, group = problem.layout, problem.dot, problem.dot.group
    batch = int(x.shape[0])
    block_rows, e, _, groups, n, _ = (int(extent) for extent in weight.shape)
    own = indices is not None
    rows, run, channels = block_rows if own else 1, run_of(layout), block_rows * n
    row, apart_by = row_of(layout) * group, layout.pitch * group
    pixels = interleaved(x, planes_of(x, layout, zero_point), indices, layout, dot, block_rows, groups)

    def half_input(_, b, g, t, k, p, q, m):
        at = m if row == apart_by else m // row * apart_by + m % row
        taken = [pixels(0, b, g, t, k, *layout.phase(r, q), layout.offset(r, q) * group + at) for r in range(e)]
        return pick(p, F.input(taken))

    def whole_input(_, b, g, t, p, q, k, m):
        return pick(q, F.input([half(0, b, g, t, k, p, s, m) for s in range(e)]))

    k, j = te.reduce_axis((0, groups), "k"), te.reduce_axis((0, group), "j")

    def product(b, o, t, p, q, i):
        number = transformed(0, b, o // n if own else 0, t, p, q, k, i * group + j)
        return te.sum(dot.wide(weight(o // n, p, q, k, o % n, j)) * dot.wide(number), axis=[k, j])

    def half_output(b, o, t, r, q, i):
        return pick(r, F.output([sums(b, o, t, p, q, i) for p in range(e)]))

    def whole_output(b, o, t, r, s, i):
        return pick(s, F.output([half_out(b, o, t, r, q, i) for q in range(e)])) >> 2  # / SCALE, which divides it

    half = te.compute((1, batch, rows, layout.tiles, groups, e, e, run * group), half_input, name=HALF_INPUT)
    transformed = te.compute((1, batch, rows, layout.tiles, e, e, groups, run * group), whole_input, name=INPUT)
    attributes = problem.attributes() | (marks or {})
    sums = te.compute((batch, channels, layout.tiles, e, e, run), product, name=NAME, attrs=attributes)
    half_out = te.compute((batch, channels, layout.tiles, F.m, e, run), half_output, name=HALF_OUTPUT)
    apart = te.compute((batch, channels, layout.tiles, F.m, F.m, run), whole_output, name=OUTPUT)
    # Images and tiles are one axis: `annotate_buffer_access` wants as many as the result has.
    shape = (batch * layout.tiles, channels, F.m, F.m * run)

    def in_order(bt, o, r, i):
        b, t = divided(bt, layout.tiles)
        return apart(b, o, t, r, i % F.m, i // F.m)

    found = te.compute(shape, in_order, name=MIXED)
    if rounding is not None:
        total, residual = found, None if added is None else residual_rows(added, problem, channels)

        def of_run(bt, o, r, i):
            other = residual(bt, o, r, i) if residual is not None else None
            return rounding.of_channel(total(bt, o, r, i), more, tirx.min(o, out_channels - 1), other)

        found = te.compute(shape, of_run, name=ROUNDED)
    height, width = problem.conv.height, problem.conv.width
    output = (batch, out_channels, height, width)
    return te.compute(output, lambda b, o, h, w: found(*place(layout, b, o, h, w)), name=RESULT)


def place(layout: Layout, b: Any, o: Any, h: Any, w: Any) -> tuple:
    """Where the sums of an output pixel are found."""
    row = h // F.m
    return b * layout.tiles + row // layout.rows, o, h % F.m, F.m * row_of(layout) * (row % layout.rows) + w


def residual_rows(residual: te.Tensor, problem: PlanarProblem, channels: int) -> te.Tensor:
    """A residual `[B, O, H', W']` where the sums of its pixels lie, in whole rows."""
    layout, pitch = problem.layout, F.m * row_of(problem.layout)
    batch, given = (int(extent) for extent in residual.shape[:2])

    def number(bt, o, r, i):
        b, t = divided(bt, layout.tiles)
        row = (t * layout.rows + i // pitch) * F.m + r
        return padded_pixel(residual, 0, (b, tirx.min(o, given - 1)), row, i % pitch)

    return te.compute((batch * layout.tiles, channels, F.m, up(F.m * run_of(layout), pitch)), number, name=RESIDUAL)


def layouts(layer: Layer, dot: Dot) -> list[Layout]:
    """Those that leave the fewest positions computed for nothing, larger tiles first."""
    _, *output = layer.image
    height, width = (ceil(extent / F.m) for extent in output)
    fixed = layer.input_image, (height, width), (F.size,) * 2, (F.m,) * 2, layer.padding[:2], (1, 1), dot.lanes
    found = [Layout(*fixed, rows) for rows in divisors(height, height)]
    found = [each for each in found if run_of(each) <= MOST_POSITIONS] or found[:1]
    return sorted(found, key=lambda each: (each.tiles * run_of(each), each.tiles))[:MOST_LAYOUTS]


def fits(layer: Layer) -> bool:
    """Whether all that is added up fits 32 bits, from the layer's own weights. Along an axis a product, and a sum of
    products on the way to an output, is at most 2 * 255 times the sum of the kernel's numbers without their signs:
    where numbers of a kernel are added, pixels are too, and where they stand alone, twice, one pixel is taken from
    another.
    """
    return int(np.abs(layer.weight.astype("int64")).sum(axis=(1, 2, 3)).max(initial=0)) * 255 * SCALE < INT32


class PlanarWinograd(PlanarConv2d):
    """Takes 3x3 kernels of stride 1 where dot products multiply int16."""

    name = NAME
    compute = staticmethod(conv2d)

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        dot = dot_of(target)
        plain = layer.kernel == (F.taps, F.taps) and layer.stride == layer.dilation == (1, 1) and not layer.linear
        if layer.dtype != dot.activation or dot.x != "int16" or not plain or not fits(layer):
            return
        found = layouts(layer, dot)
        for n in pattern.SIZES:
            problems = [planar_problem(layer, n, dot, layout) for layout in found]
            problem = min(problems, key=lambda each: least_cycles(self, each, target))
            yield Form(self, layer, problem, n, f"planar winograd {F}", least_cycles(self, problem, target), rank=1)

    def multiplied(self, builder: relax.BlockBuilder, data: relax.Expr, form: Form) -> relax.Expr:
        names = {"primfunc_name_hint": "planar_winograd_weight", "primfunc_attrs": OPAQUE}
        return builder.emit_te(transform_weight, data, **names)

    def problem(self, sch: Schedule) -> PlanarProblem:
        return problem_of(sch, NAME)

    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)


KERNEL = PlanarWinograd()
