"""Pools of 8-bit integers, NCHW: lanes over pixels, a channel's plane at a time in the first cache.

    down[b, c, h*P + m] = greatest of, or sum over, r: x[b, c, D*h + r - top, m - left]     P: columns, with a margin
    across[b, c, e]     = greatest of, or sum over, q: down[b, c, one, e + q]
    y[b, c, h, w]       = across[b, c, h*P + D*w]                                           D: stride

Both steps before the last take neighbours in memory, whatever the stride: vectors of bytes, or of 16 bits for sums. A
window has at least one pixel of the image in it, so that where the greatest is asked for a row above or below counts as
the nearest one. It is no kernel: it has no weights, and there is nothing to tune.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import partial, reduce
from math import ceil, prod

import numpy as np
from tvm import relax, te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from tvm_sched.kernels.base import FUSABLE, KERNEL_MARK
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.integer.interleave import interleave
from tvm_sched.kernels.integer.planar.planes import copy_padded, copy_whole, padded_pixel, up
from tvm_sched.kernels.rewrites.loops import split_lanes
from tvm_sched.kernels.rewrites.tir_blocks import moves_only
from tvm_sched.targets import Target

NAME = "planar_pool"  # the block `across`
PADDED, DOWN, ORDERED, RESULT = (f"{NAME}_{stage}" for stage in ("padded", "down", "ordered", "result"))
SIZES = f"{NAME}.sizes"  # attribute of that block
VECTOR = 64  # positions of a run are whole vectors of so many
MOST_SUMMED = ((1 << 15) - 1) // 255  # numbers of 8 bits, whose sum fits 16


@dataclass(frozen=True)
class Pool:
    """Windows over an image; pairs are (height, width). `padding`: top, left."""

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    image: tuple[int, int]
    output: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """(rows, columns) of the image and its margin, as far as windows reach."""
        each = zip(self.output, self.stride, self.window, self.image, self.padding, strict=True)
        height, width = (max((out - 1) * step + taps, size + before) for out, step, taps, size, before in each)
        return height, width

    @property
    def padded(self) -> "Pool":
        """The same windows over the image with its margin."""
        return replace(self, image=self.reach, padding=(0, 0))

    @property
    def run(self) -> int:
        """Positions of a plane's `across`."""
        return up(self.output[0] * self.reach[1] + self.stride[1] - 1, VECTOR)

    @property
    def rows(self) -> int:
        """Of `down`; the last are there for whole vectors only."""
        return ceil((self.run + self.window[1] - 1) / self.reach[1])

    def attributes(self) -> dict:
        """As an attribute of a TIR block."""
        return {SIZES: [number for pair in astuple(self) for number in pair]}

    @staticmethod
    def of_block(annotations: Mapping) -> "Pool":
        """The pool that `attributes` wrote on a block."""
        numbers = [int(number) for number in annotations[SIZES]]
        return Pool(*((numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)))

    def greatest(self, builder: relax.BlockBuilder, x: relax.Expr) -> relax.Var:
        """The greatest numbers `[B, C, *output]` of the windows over `x [B, C, *image]` of 8 bits."""
        return self.call(builder, x, greatest)

    def sums(self, builder: relax.BlockBuilder, x: relax.Expr, zero_point: int) -> relax.Var:
        """The sums int32 `[B, C, *output]` of the windows over `x [B, C, *image]` of 8 bits, with a margin of
        `zero_point`.
        """
        assert prod(self.window) <= MOST_SUMMED
        return self.call(builder, x, partial(sums, zero_point=zero_point))

    def call(self, builder: relax.BlockBuilder, x: relax.Expr, compute) -> relax.Var:
        """One of the computes below as a function of its own."""
        made = partial(compute, pool=self, marks={KERNEL_MARK: NAME})
        return builder.emit(builder.call_te(made, x, primfunc_name_hint=NAME, primfunc_attrs=FUSABLE))


def greatest(x: te.Tensor, *, pool: Pool, marks: dict | None = None) -> te.Tensor:
    """The greatest number of each window; `marks` become attributes of the block `across`."""
    least = int(np.iinfo(str(x.dtype)).min)
    return windows(x, pool, tirx.max, str(x.dtype), least, pool.attributes() | (marks or {}))


def sums(x: te.Tensor, *, pool: Pool, zero_point: int, marks: dict | None = None) -> te.Tensor:
    """The sum of each window, int32."""
    top, left = pool.padding

    def pixel(b, c, h, w):
        return padded_pixel(x, zero_point, (b, c), h - top, w - left)

    whole = pool.padded == pool
    padded = x if whole else te.compute((*x.shape[:2], *pool.reach), pixel, name=PADDED)
    return windows(padded, pool.padded, lambda one, other: one + other, "int16", 0, pool.attributes() | (marks or {}))


def windows(x: te.Tensor, pool: Pool, combine, dtype: str, nothing: int, attributes: dict) -> te.Tensor:
    """What `combine` makes of each window, in `dtype`, with `nothing` beyond the image. Sums are int32 in the end."""
    (rows, columns), (top, left), (height, width) = pool.window, pool.padding, pool.image
    (_, pitch), batch = pool.reach, x.shape[:2]

    def taken_down(b, c, _, m):
        first, column = m // pitch * pool.stride[0] - top, m % pitch - left
        taps = [x(b, c, tirx.min(tirx.max(first + r, 0), height - 1), column).astype(dtype) for r in range(rows)]
        inside = tirx.all(column >= 0, column < width)
        return tirx.if_then_else(inside, reduce(combine, taps), tirx.const(nothing, dtype))

    def taken_across(b, c, one, e):
        return reduce(combine, [down[b, c, one, e + q] for q in range(columns)])

    # Axes of 1 are for `annotate_buffer_access`, which wants as many axes of a buffer as of the block that reads it.
    down = te.compute((*batch, 1, pool.rows * pitch), taken_down, name=DOWN)
    across = te.compute((*batch, 1, pool.run), taken_across, name=NAME, attrs=attributes)
    shape = (*batch, *pool.output)
    ordered = te.compute(shape, lambda b, c, h, w: across[b, c, 0, h * pitch + w * pool.stride[1]], name=ORDERED)
    return te.compute(shape, lambda *at: ordered(*at).astype(dtype if dtype == str(x.dtype) else "int32"), name=RESULT)


def schedule(sch: Schedule, target: Target) -> None:
    """Rewrites the compute, and what was fused behind it: a plane a thread."""
    padded, down, across, ordered, result = (find_block(sch, name) for name in (PADDED, DOWN, NAME, ORDERED, RESULT))
    pool = Pool.of_block(sch.get(across).annotations)

    # 1. Outputs: in order straight from their run, if they only move.
    epilogue = merge_epilogue(sch, result)
    sch.compute_inline(result)
    image, plane, _, column = sch.get_loops(epilogue)
    if moves_only(sch, epilogue):
        sch.compute_inline(ordered)
        ordered = epilogue
    else:
        split_lanes(sch, column, target.lanes)
        sch.compute_at(ordered, plane, preserve_unit_loops=True)
        *_, column = sch.get_loops(ordered)
    if pool.stride[1] == 1:
        copy_whole(sch, column)
    else:
        column, _ = sch.split(column, [None, 1])
        interleave(sch, column, pool.stride[1])

    # 2. Neighbours in a row, then in a column; each step makes all of the plane that the next one may read.
    read_whole(sch, ordered, NAME)
    sch.compute_at(across, plane, preserve_unit_loops=True)
    split_lanes(sch, sch.get_loops(across)[-1], VECTOR)
    read_whole(sch, across, DOWN)
    sch.compute_at(down, plane, preserve_unit_loops=True)
    _, column = sch.split(sch.get_loops(down)[-1], [None, pool.reach[1]])
    copy_padded(sch, column, *((0, pool.reach[1]) if padded is not None else (pool.padding[1], pool.image[1])))
    if padded is not None:
        read_whole(sch, down, PADDED)
        sch.compute_at(padded, plane, preserve_unit_loops=True)
        copy_padded(sch, sch.get_loops(padded)[-1], pool.padding[1], pool.image[1])

    # 3. Threads.
    sch.parallel(sch.fuse(image, plane))
    finish(sch, target)


def read_whole(sch: Schedule, block: SBlockRV, name: str) -> None:
    """Lets a block ask for all of the plane of what another makes."""
    names = [read.source.name for read in sch.get(block).reads]
    shape = sch.get(block).reads[names.index(name)].source.shape

    def plane(*at):
        return (*((point, point + 1) for point in at[:2]), *((0, int(extent)) for extent in shape[2:]))

    sch.annotate_buffer_access(block, names.index(name), "read", plane)
