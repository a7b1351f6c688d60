"""Convolution of 8-bit integers, or of bfloat16, over 1xN blocks: lanes over pixels, NCHW, sums in int32 or float32.

    X[b, g, t, k, m*J + j] = x_padded[b, indices[g, k*J + j], position t, m]           J channels side by side
    S[b, g*N + l, t, i]  = sum_{k, r, q, j} data[g, k, r, q, l, j] * X[b, g, t, k, (i + offset(r, q))*J + j]
    y[b, o, h, w]        = S[b, o, tile and position of (h, w)]

`x [B, C, H, W]` uint8 (int8 on ARM), `data [G, K, R, Q, N, J]`, `indices [G, K*J]` int32, `y [B, O, H', W']` int32,
where G = ceil(O / N); or x and data are bits of bfloat16 (`bfloats.py`), and y is float32. J channels are what a dot
product takes (`dots.py`); kept ones, whichever they are, are interleaved once a block row and tile, and all its N
outputs read them from the first cache: at N = 16 that costs an eighth of the products. Without indices all channels are
kept, and interleaved once for all block rows. Padding is of the activation's zero point. Blocks are filled up to whole
groups by zero weights. Where vectors of pixels would be half empty, as in small images, and for long sums, lanes may
run over the N outputs instead (`planar/outputs.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.relax import op

from subp_contract import pattern
from tvm_sched.kernels.base import OPAQUE, Form, least_cycles, with_channels
from tvm_sched.kernels.integer.bfloats import BITS
from tvm_sched.kernels.integer.dots import Dot, dot_for, in_groups
from tvm_sched.kernels.integer.integer_kernel import IntegerKernel
from tvm_sched.kernels.integer.planar import outputs
from tvm_sched.kernels.integer.planar.planes import TYPES, Layout, divided, padded_pixel, up
from tvm_sched.kernels.integer.planar.problem import (
    NAME,
    RESIDUAL,
    RESULT,
    ROUNDED,
    TURNED,
    PlanarProblem,
    problem_of,
)
from tvm_sched.kernels.integer.planar.reading import interleaved, operands, planes_of
from tvm_sched.kernels.integer.planar.schedule import cycles, schedule, tiles
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors
from tvm_sched.targets import Target

MOST_PIXELS = 256  # of a tile
FEW_REGISTERS = 16
MOST_LAYOUTS = 4  # of a layer, that are looked at
FEWEST_SINGLE, FEWEST_OTHERS = 7, 3  # pixels of a register tile with lanes over outputs; registers of other things


def conv2d(
    x: te.Tensor,
    data: te.Tensor,
    *more: te.Tensor,
    problem: PlanarProblem,
    out_channels: int,
    zero_point: int = 0,
    rounding: Rounding | None = None,
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `more`: indices, where the problem has them, then what `rounding` takes, a
    residual `[B, O, H', W']` first if it adds one; `marks` become attributes of the block of products.
    """
    indices, added, more = operands(more, problem, rounding)
    layout, dot = problem.layout, problem.dot
    batch = int(x.shape[0])
    block_rows, groups, kernel_h, kernel_w, n, group = (int(extent) for extent in data.shape)
    own = indices is not None  # each block row reads channels of its own
    planes = planes_of(x, layout, zero_point)
    together = interleaved(x, planes, indices, layout, dot, block_rows, groups)
    k, r, q, j = (
        te.reduce_axis((0, extent), name)
        for extent, name in zip((groups, kernel_h, kernel_w, group), "krqj", strict=True)
    )

    def product_at(b, block_row, t, lane, position):
        at = position + layout.offset(r, q)
        pixels = together(0, b, block_row if own else 0, t, k, *layout.phase(r, q), at * group + j)
        return te.sum(dot.wide(data(block_row, k, r, q, lane, j)) * dot.wide(pixels), axis=[k, r, q, j])

    attributes = problem.attributes() | (marks or {})
    early = layout.single > 0 and rounds_first(rounding, problem, out_channels)
    runs = (batch, block_rows * n, layout.tiles, layout.run)
    if layout.single:
        singly = te.compute(
            (batch, block_rows * layout.tiles, max(layout.single, layout.run), n),
            lambda b, gt, p, lane: product_at(b, *divided(gt, layout.tiles), lane, layout.position(p)),
            name=NAME,
            attrs=attributes,
        )

        def of_lane(b, gt, p, lane):
            return rounding.of_channel(singly(b, gt, p, lane), more, gt // layout.tiles * n + lane)

        first = te.compute(singly.shape, of_lane, name=ROUNDED) if early else singly
        turned = te.compute(
            (batch, layout.tiles, block_rows * n, layout.run),
            lambda b, t, o, i: first[b, o // n * layout.tiles + t, i, o % n],
            name=TURNED,
        )

        def sums(b, o, t, i):
            return turned[b, t, o, i]
    else:
        sums = te.compute(runs, lambda b, o, t, i: product_at(b, o // n, t, o % n, i), name=NAME, attrs=attributes)
    if rounding is not None and not early:
        total, residual = sums, None if added is None else residual_runs(added, runs, layout)

        def of_run(b, o, t, i):
            other = residual(b, o, t, i) if residual is not None else None
            return rounding.of_channel(total(b, o, t, i), more, tirx.min(o, out_channels - 1), other)

        sums = te.compute(runs, of_run, name=ROUNDED)
    output = (batch, out_channels, problem.conv.height, problem.conv.width)
    return te.compute(output, lambda b, o, h, w: sums(b, o, *layout.place(h, w)), name=RESULT)


def widened(data: te.Tensor, dtype: str) -> te.Tensor:
    """Weights that are stored as int8 as they are multiplied."""
    return te.compute(data.shape, lambda *place: data(*place).astype(dtype), name="wide_weight")


def rounds_first(rounding: Rounding | None, problem: PlanarProblem, out_channels: int) -> bool:
    """Whether sums with lanes over outputs are rounded before they are turned over: bytes are so four times as fast.
    Residuals lie in planes, and numbers of each channel are to fill vectors.
    """
    return rounding is not None and not rounding.adds and problem.conv.block_rows * problem.conv.n == out_channels


def residual_runs(residual: te.Tensor, runs: tuple[int, ...], layout: Layout) -> te.Tensor:
    """A residual `[B, O, H', W']` where the sums of its pixels lie, `runs [B, O, tiles, run]`, in whole rows."""
    batch, channels, tiles, run = runs
    pixels = run if layout.whole else up(run, layout.pitch)

    def number(b, o, t, i):
        (h, w), o = layout.pixel(t, i), tirx.min(o, int(residual.shape[1]) - 1)
        if layout.whole:
            return tirx.if_then_else(i < layout.outputs, residual[b, o, h, w], tirx.const(0, residual.dtype))
        return padded_pixel(residual, 0, (b, o), h, w)

    return te.compute((batch, channels, tiles, pixels), number, name=RESIDUAL)


def layouts(layer: Layer, target: Target, dot: Dot) -> list[Layout]:
    """Those that leave the fewest positions computed for nothing, larger tiles first; where registers are few, those
    whose runs are whole pairs of vectors too: register tiles there are of few outputs, and read the fewest by pairs.
    """
    _, *output = layer.image
    height, width = output
    fixed = (
        layer.input_image,
        (height, width),
        layer.kernel,
        layer.stride,
        layer.padding[:2],
        layer.dilation,
        dot.lanes,
    )
    if layer.kernel == (1, 1):
        found = [Layout(*fixed, 0, pixels) for pixels in divisors(height * width, MOST_PIXELS)]
    else:
        found = [Layout(*fixed, rows) for rows in divisors(height, height)]
        if dot.outputs > 1 and layer.stride == (1, 1):  # where no records know a layer by its layout
            found = [replace(each, shared=1) for each in found]
        found = [each for each in found if each.run <= MOST_PIXELS] or found[:1]
    few = target.registers <= FEW_REGISTERS
    paired = [replace(each, lanes=2 * dot.lanes) for each in found if few and each.run % (2 * dot.lanes)]
    found, paired = (
        sorted(some, key=lambda each: (each.tiles * each.run, each.tiles))[:MOST_LAYOUTS] for some in (found, paired)
    )
    return found + paired


def single_layouts(positions: Sequence[Layout], target: Target) -> list[Layout]:
    """Of these the largest tile's, with lanes over outputs: filled up to some whole register tiles."""
    layout = max(positions, key=lambda each: each.outputs)
    sizes = range(min(FEWEST_SINGLE, layout.outputs), target.registers - FEWEST_OTHERS + 1)
    counts = {up(layout.outputs, pixels): pixels for pixels in sizes}  # the largest register tiles of each
    return [replace(layout, single=count) for count in sorted(counts)[:MOST_LAYOUTS]]


class PlanarConv2d(IntegerKernel):
    """Takes every convolution of planes, and linear layers of many rows, which are the pixels of a transposed x."""

    name = NAME
    dtypes = TYPES
    adds = True
    compute = staticmethod(conv2d)

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        dot = dot_for(layer, target)
        if layer.dtype != dot.activation or (layer.linear and layer.image[-1] < dot.lanes):
            return
        pixels, numbers = prod(layer.image), layer.channels + layer.out_channels
        transposing = pixels * numbers * target.costs.planes_cycles / target.cores if layer.linear else 0.0
        positions = layouts(layer, target, dot)
        for n in pattern.SIZES:
            found = list(positions)
            if outputs.takes(n, layer.out_channels, dot):
                found += single_layouts(positions, target)
            found = [planar_problem(layer, n, dot, layout) for layout in found]
            problem = min(found, key=lambda each: least_cycles(self, each, target))
            cycles = least_cycles(self, problem, target) + transposing
            yield Form(self, layer, problem, n, "planar", cycles, rank=0)

    def pack(self, form: Form) -> list[np.ndarray]:
        dot, problem = form.problem.dot, form.problem
        data, indices = pattern.pack(form.layer.ungrouped, form.kept, form.n)  # [G, K, kh, kw, N]
        data, indices = in_groups(data, indices, problem.groups, dot.group)
        data = data.transpose(0, 1, 3, 4, 5, 2)
        return [dot.weights(data) if dot.w == BITS else np.ascontiguousarray(data), *indices]

    def multiplied(self, builder: relax.BlockBuilder, data: relax.Expr, form: Form) -> relax.Expr:
        dtype = form.problem.weights
        if dtype == form.problem.dot.stored:
            return data
        names = {"primfunc_name_hint": "planar_weight", "primfunc_attrs": OPAQUE}
        return builder.emit_te(widened, data, dtype, **names)

    def options(self, form: Form) -> dict[str, Any]:
        return {"out_channels": form.layer.out_channels, "zero_point": form.layer.zero_point}

    def call(
        self,
        builder: relax.BlockBuilder,
        x: relax.Expr,
        weights: Sequence[relax.Expr],
        form: Form,
        marks: dict,
        rounding: Rounding | None = None,
    ) -> relax.Expr:
        layer = form.layer
        if not layer.linear:
            return super().call(builder, x, weights, form, marks, rounding)
        rows = layer.image[-1]
        image = op.reshape(op.permute_dims(op.reshape(x, (rows, layer.channels))), (1, layer.channels, 1, rows))
        made = builder.emit(super().call(builder, builder.emit(image), weights, form, marks, rounding))
        return op.reshape(op.permute_dims(op.reshape(made, (layer.out_channels, rows))), layer.output)

    problem = staticmethod(problem_of)
    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def arguments(self, problem: PlanarProblem, infos, rng: np.random.Generator) -> list[np.ndarray]:
        return with_channels(super().arguments(problem, infos, rng), infos, problem.conv.channels, rng)


def planar_problem(layer: Layer, n: int, dot: Dot, layout: Layout) -> PlanarProblem:
    """The layer in blocks of n."""
    conv = layer.problem(n)
    return PlanarProblem(conv, layout, dot, ceil(conv.kept / dot.group))


KERNEL = PlanarConv2d()
