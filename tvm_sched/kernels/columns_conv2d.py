"""Direct convolution over columns of a weight: lanes over the N output channels of a block, NHWC.

A column is an input channel at one kernel position. Where the kernels of a block share a pattern of kept positions, a
block row of N outputs keeps K columns, any positions of any channels, and the others cost nothing:

    y[b, h, w, g*N + lane] = sum_k data[g, k, lane] * x[b, h*S + row - P, w*S + col - P, channel]
    row, col, channel = columns[g, k]

`x [B, H, W, C]`, `data [G, K, 1, 1, N]`, `columns [G, K, 3]` int32, sorted in each block row, `y [B, H', W', O]`,
G = ceil(O / N). Row and column of a dilated kernel are those of its pixels. It is the direct kernel of a 1x1
convolution whose index says where in the image too: its tiles and its schedule are that one's.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from tvm import relax, te
from tvm.s_tir import Schedule

from subp_contract import pattern
from tvm_sched.kernels import direct_conv2d, register_tile
from tvm_sched.kernels.base import (
    MOST_TILES,
    STORED_ROUNDING,
    Form,
    Kernel,
    Savings,
    distinct_rows,
    fusable_call,
    least_cycles,
    narrow_dtype,
    normal,
    widened,
)
from tvm_sched.kernels.conv_problem import ConvProblem, output_size
from tvm_sched.kernels.fusion import find_block
from tvm_sched.kernels.layer import Layer, longest_row
from tvm_sched.kernels.register_tile import Tile
from tvm_sched.targets import Target

NAME = "columns_conv2d"  # of the function; its block is direct_conv2d's
EXTENT = "columns.extent"  # attribute of the block


@dataclass(frozen=True)
class ColumnsProblem:
    """The columns as a 1x1 convolution, and (rows, columns) of the image that one output pixel sees."""

    conv: ConvProblem
    extent: tuple[int, int]


def compute(
    x: te.Tensor,
    data: te.Tensor,
    columns: te.Tensor,
    *,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `kernel` is (height, width) of the whole one, `padding` (top, left, bottom,
    right); `marks` become the block's attributes.
    """
    batch, height, width, channels = (int(extent) for extent in x.shape)
    block_rows, kept, _, _, n = (int(extent) for extent in data.shape)
    out_height, out_width = output_size((height, width), kernel, stride, padding, dilation)
    padded = direct_conv2d.pad(x, padding)
    k = te.reduce_axis((0, kept), "k")

    def multiplied(b, h, w, o):
        row, col, channel = (columns[o // n, k, part] for part in range(3))
        return te.sum(
            widened(data[o // n, k, 0, 0, o % n], x.dtype)
            * padded[b, h * stride[0] + row, w * stride[1] + col, channel],
            axis=[k],
        )

    sizes = (channels, block_rows, kept, n)
    stored = narrow_dtype(data, x)
    problem = ConvProblem(batch, out_height, out_width, *sizes, stride=stride, padded=True, weights=stored)
    extent = [step * (size - 1) + 1 for size, step in zip(kernel, dilation, strict=True)]
    attributes = problem.attributes() | {EXTENT: extent} | (marks or {})
    shape = (batch, out_height, out_width, block_rows * n)
    return direct_conv2d.cut(te.compute(shape, multiplied, name=direct_conv2d.NAME, attrs=attributes), out_channels)


def matrix(weight: np.ndarray) -> np.ndarray:
    """A weight `[O, C, kh, kw]` as that of a 1x1 convolution of its columns, `[O, kh * kw * C, 1, 1]`: rows of the
    image first, channels last.
    """
    return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1, 1, 1)


def places(
    indices: np.ndarray, channels: int, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> np.ndarray:
    """(row, column, channel) `[G, K, 3]` of columns `[G, K]` as `matrix` numbers them."""
    row, col, channel = np.unravel_index(indices, (*kernel, channels))
    return np.stack([row * dilation[0], col * dilation[1], channel], axis=-1).astype("int32")


def problem_of(sch: Schedule) -> ColumnsProblem:
    """What the function computes."""
    notes = sch.get(find_block(sch, direct_conv2d.NAME)).annotations
    rows, columns = map(int, notes[EXTENT])
    return ColumnsProblem(ConvProblem.of_block(notes), (rows, columns))


class ColumnsConv2d(Kernel):
    """Takes layers whose kept blocks keep only some positions of their kernels, the same ones in a whole block."""

    name = NAME
    dtypes = ("float32", "float16")

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        taps = prod(layer.kernel)
        if taps == 1 or layer.depthwise or layer.dense:
            return
        weight = matrix(layer.ungrouped)
        columns = replace(layer, weight=weight, channels=weight.shape[1], groups=1)
        rows, cols = (step * (size - 1) + 1 for size, step in zip(layer.kernel, layer.dilation, strict=True))
        for n, weights in itertools.product(pattern.SIZES, layer.weight_types):
            kept = longest_row(columns.kept[n])
            if kept < taps * layer.kept[n].sum(axis=1).max():
                conv = replace(layer.problem(n, weights), kept=kept, kernel=(1, 1), padded=True, indexed=True)
                problem = ColumnsProblem(conv, (rows, cols))
                told = ("columns", least_cycles(self, problem, target), 2)
                rounding = STORED_ROUNDING[weights]
                yield Form(self, columns, problem, n, *told, details=layer, rounding=rounding, weights=weights)

    def why(self, layer: Layer, form: Form) -> str:
        skipped = 1 - form.row_length / form.layer.channels
        return f"{skipped:.0%} of the columns are skipped: the kernels of a block share the positions that they keep"

    def savings(self, layer: Layer, form: Form) -> Savings:
        """As of the columns, which have a pattern of their own."""
        zeros, density = form.layer.zeros, form.layer.density
        savings = super().savings(layer, form)
        return replace(savings, n=zeros.n if zeros else None, density=density if zeros else float(form.kept.mean()))

    def pack(self, form: Form) -> list[np.ndarray]:
        layer, (data, indices) = form.details, super().pack(form)
        return [data, places(indices, layer.channels, layer.kernel, layer.dilation)]

    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        layer = form.details
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        options = {"out_channels": layer.out_channels, "kernel": layer.kernel, "marks": marks}
        return fusable_call(builder, NAME, compute, x, *weights, **options, **geometry)

    problem = staticmethod(problem_of)
    schedule = staticmethod(direct_conv2d.schedule)

    def tiles(self, problem: ColumnsProblem, target: Target, most: int = MOST_TILES) -> list[Tile]:
        return register_tile.candidates(problem.conv, target, most)

    def cycles(self, problem: ColumnsProblem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
        """Those of the 1x1 convolution, and two more loads a step: an index is three numbers."""
        conv = problem.conv
        steps = conv.block_rows * conv.kept * conv.batch * conv.height * conv.width / (tile.rows * tile.cols)
        loads = 2 * steps / target.loads_per_cycle / target.cores
        return register_tile.cycles(conv, tile, target, fma_cycles) + loads

    def copying_cycles(self, problem: ColumnsProblem, target: Target) -> float:
        return direct_conv2d.KERNEL.copying_cycles(problem.conv, target)

    def arguments(
        self, problem: ColumnsProblem, infos: Sequence[tuple[str, tuple[int, ...]]], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Columns are distinct places among those that a pixel sees, instead of channels."""
        channels = problem.conv.channels
        made = []
        for dtype, shape in infos:
            if dtype == "int32":
                places_seen = distinct_rows(rng, shape[:2], prod(problem.extent) * channels)
                made.append(places(places_seen, channels, problem.extent))
            else:
                made.append(normal(rng, dtype, shape))
        return made

    def loop_key(self, problem: ColumnsProblem, tile: Tile) -> tuple:
        return (NAME, *direct_conv2d.KERNEL.loop_key(problem.conv, tile))


KERNEL = ColumnsConv2d()
