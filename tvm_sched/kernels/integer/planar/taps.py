"""Products of the taps of a row: what `planar_depthwise` and `planar_stem` share.

    S[b, o, t, f, i] = sum_{c, r, u, j} weight[o, c, r, u, j] * x_padded[b, c, row r of tile t, J*(i + u) + D*f + j]
    y[b, o, h, w]    = S[b, o, t, e % F, e // F]          D: stride; e: position of (h, w) in tile t

A dot product takes J bytes side by side in memory (`dots.py`), here J taps of a row, whose weights are filled up by
zeros: lane i of a vector has those of output pixel F*i, F = J / stride, and a vector that starts `stride` bytes further
on those of F*i + 1. So nothing is rearranged before the products; F vectors of sums are interleaved afterwards.
`x [B, C, H, W]`, `weight [O, C or 1, R, U, J]` (or `[C, R, U, O, J]`), `y [B, O, H', W']` int32, or 8 bits where the
layer rounds; or bits of bfloat16, and y float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
from tvm import te
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_sched.kernels.base import Form
from tvm_sched.kernels.fusion import find_block, merge_epilogue
from tvm_sched.kernels.integer.dots import DOTS, Dot, arithmetic_cycles, dot_for
from tvm_sched.kernels.integer.integer_kernel import IntegerKernel
from tvm_sched.kernels.integer.interleave import interleave
from tvm_sched.kernels.integer.planar.planes import (
    TYPES,
    Layout,
    copy_padded,
    copy_whole,
    padded_pixel,
    read_whole_runs,
)
from tvm_sched.kernels.integer.planar.problem import DOT
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors
from tvm_sched.kernels.rewrites.loops import split_lanes, unrolled_vector
from tvm_sched.kernels.rewrites.tir_blocks import moves_only
from tvm_sched.targets import Target

PLANES, ROUNDED, ORDERED, RESULT = (f"planar_taps_{stage}" for stage in ("planes", "rounded", "ordered", "result"))
SIZES = "planar.sizes"  # attribute of the block of products
MOST_POSITIONS = 512  # of a tile


@dataclass(frozen=True)
class TapsProblem:
    """`outputs` channels, each of which reads `inputs` planes of `batch` images, in tiles of a layout."""

    batch: int
    outputs: int
    inputs: int
    layout: Layout
    dot: Dot

    @property
    def begun(self) -> int:
        """F: pixels whose taps begin in one lane."""
        return self.dot.group // self.layout.stride[1]

    @property
    def parts(self) -> int:
        """U: dot products of a row of taps."""
        return ceil(self.layout.kernel[1] / self.dot.group)

    @property
    def columns(self) -> int:
        """Numbers of a row of a plane."""
        return self.layout.pitch * self.layout.stride[1]

    @property
    def rows(self) -> int:
        """Of a plane; the last may be there for whole vectors only."""
        layout = self.layout
        last = ((layout.tiles - 1) * layout.step + layout.run) * layout.stride[1] + self.parts * self.dot.group
        below = (layout.kernel[0] - 1) * layout.dilation[0] // layout.stride[0]
        return ceil(last / self.columns) + below

    @property
    def plane(self) -> int:
        """Numbers of the planes of an input channel."""
        return self.layout.phases[0] * self.rows * self.columns

    @property
    def vectors(self) -> int:
        """Of an image's sums, of one output channel."""
        return self.layout.tiles * self.layout.run // self.dot.lanes

    @property
    def by_lane(self) -> bool:
        """Whether weights of several outputs, which read the same inputs, lie side by side, as a dot product takes
        them.
        """
        return self.dot.outputs > 1 and self.inputs > 1 and self.outputs % self.dot.outputs == 0

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.layout.attributes() | {DOT: self.dot.name, SIZES: [self.batch, self.outputs, self.inputs]}

    @staticmethod
    def of_block(notes) -> "TapsProblem":
        """The problem that `attributes` wrote on a block."""
        return TapsProblem(*map(int, notes[SIZES]), Layout.of_block(notes), DOTS[str(notes[DOT])])


def problems(layer: Layer, inputs: int, target: Target) -> Iterator[TapsProblem]:
    """In every tile of rows, for layers whose taps lie side by side and whose stride divides a group of them."""
    dot = dot_for(layer, target)
    if layer.linear or layer.dtype != dot.activation or layer.dilation[1] > 1 or dot.group % layer.stride[1]:
        return
    batch, height, width = layer.image
    lanes = dot.lanes * dot.group // layer.stride[1]  # positions are whole vectors of every pixel of a lane
    fixed = (layer.input_image, (height, width), layer.kernel, layer.stride, layer.padding[:2], layer.dilation)
    found = [Layout(*fixed, lanes, rows) for rows in divisors(height, height)]
    for layout in [each for each in found if each.run <= MOST_POSITIONS] or found[:1]:
        yield TapsProblem(batch, layer.out_channels, inputs, layout, dot)


def packed(weight: np.ndarray, problem: TapsProblem) -> np.ndarray:
    """`[O, C, R, U, J]` of a weight `[O, C, R, Q]`; `[C, R, U, O, J]` where dot products take it by lane."""
    outputs, inputs, rows, taps = weight.shape
    group, parts = problem.dot.group, problem.parts
    filled = np.pad(weight, [(0, 0), (0, 0), (0, 0), (0, parts * group - taps)])
    made = problem.dot.weights(filled.reshape(outputs, inputs, rows, parts, group))
    return made.transpose(1, 2, 3, 0, 4) if problem.by_lane else made


def conv2d(
    x: te.Tensor,
    weight: te.Tensor,
    *more: te.Tensor,
    block: str,
    problem: TapsProblem,
    zero_point: int = 0,
    rounding: Rounding | None = None,
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `more`: what `rounding` takes; `block`: the name of the block of products, and
    `marks`, attributes of it.
    """
    layout, dot, begun = problem.layout, problem.dot, problem.begun
    batch, channels, _, _ = (int(extent) for extent in x.shape)
    own = problem.inputs < channels  # each output has a channel of its own
    extents = [int(extent) for extent in weight.shape]
    del extents[3 if problem.by_lane else 0]

    def pixel(b, c, phase, m):
        row = m // problem.columns * layout.stride[0] + phase - layout.padding[0]
        return padded_pixel(x, zero_point, (b, c), row, m % problem.columns - layout.padding[1]).astype(dot.x)

    planes = te.compute((batch, channels, layout.phases[0], problem.rows * problem.columns), pixel, name=PLANES)
    c, r, u, j = (te.reduce_axis((0, extent), axis) for extent, axis in zip(extents, "cruj", strict=True))

    def product(b, o, t, f, i):
        at = (t * layout.step + layout.offset(r, 0)) * layout.stride[1]
        at += (i + u) * dot.group + f * layout.stride[1] + j
        number = planes(b, o if own else c, layout.phase(r, 0)[0], at)
        place = (c, r, u, o, j) if problem.by_lane else (o, c, r, u, j)
        return te.sum(dot.wide(weight(*place)) * dot.wide(number), axis=[c, r, u, j])

    attributes = problem.attributes() | (marks or {})
    shape = (batch, problem.outputs, layout.tiles, begun, layout.run // begun)
    sums = last = te.compute(shape, product, name=block, attrs=attributes)
    if rounding is not None:
        last = te.compute(shape, lambda b, o, t, f, i: rounding.whole(sums(b, o, t, f, i), more, o), name=ROUNDED)

    def in_order(b, o, t, e):
        number = last(b, o, t, e % begun, e // begun)
        return number if rounding is None else rounding.narrow(number)

    ordered = te.compute((batch, problem.outputs, layout.tiles, layout.run), in_order, name=ORDERED)
    result = (batch, problem.outputs, *layout.output)
    return te.compute(result, lambda b, o, h, w: ordered(b, o, *layout.place(h, w)), name=RESULT)


@dataclass(frozen=True)
class Stages:
    """The blocks of a function; `rounded` is None where it rounds in its epilogue, or not at all."""

    planes: SBlockRV
    product: SBlockRV
    rounded: SBlockRV | None
    ordered: SBlockRV
    epilogue: SBlockRV

    @staticmethod
    def of(sch: Schedule, name: str) -> "Stages":
        """Those of a function whose block of products has this name; what was fused behind it becomes one block."""
        planes, product, rounded, ordered, result = (
            find_block(sch, each) for each in (PLANES, name, ROUNDED, ORDERED, RESULT)
        )
        epilogue = merge_epilogue(sch, result)
        sch.compute_inline(result)
        if rounded is not None and not moves_only(sch, epilogue):
            sch.compute_inline(rounded)
            rounded = None
        return Stages(planes, product, rounded, ordered, epilogue)

    def outputs_in_rows(self, sch: Schedule, at: LoopRV, column: LoopRV, problem: TapsProblem) -> None:
        """Computes a tile's outputs, in order, at the loop `at`, and stores them a row at a time."""
        read_whole_runs(sch, self.epilogue, ORDERED, problem.layout)
        sch.compute_at(self.ordered, at, preserve_unit_loops=True)
        if self.rounded is None:
            split_lanes(sch, column, problem.dot.lanes)
        else:
            copy_whole(sch, column)

    def copy_planes(self, sch: Schedule, problem: TapsProblem) -> None:
        """Pads the planes a row at a time."""
        _, column = sch.split(sch.get_loops(self.planes)[-1], [None, problem.columns])
        copy_padded(sch, column, problem.layout.padding[1], problem.layout.image[1])


class TapsKernel(IntegerKernel):
    """What the kernels have in common."""

    dtypes = TYPES
    compute = staticmethod(conv2d)

    def pack(self, form: Form) -> list[np.ndarray]:
        return [packed(form.layer.weight, form.problem)]

    def options(self, form: Form) -> dict[str, Any]:
        return {"zero_point": form.layer.zero_point, "block": self.name}

    def problem(self, sch: Schedule) -> TapsProblem:
        return TapsProblem.of_block(sch.get(find_block(sch, self.name)).annotations)


def in_registers(sch: Schedule, stages: Stages, vectors: int, problem: TapsProblem) -> None:
    """Divides the loop over a tile's positions, the last of `ordered`, into vectors that are summed in registers for
    all outputs of the loop before, and then put in order.
    """
    *_, output, _, positions = sch.get_loops(stages.ordered)
    part, vector, lane, begun = sch.split(positions, [None, vectors, problem.dot.lanes, problem.begun])
    sch.reorder(part, output, vector, lane, begun)
    for block in (stages.rounded, stages.product):
        if block is not None:
            sch.compute_at(block, part, preserve_unit_loops=True)
            sch.set_scope(block, 0, "local")
    if stages.rounded is not None:
        *outer, i = sch.get_loops(stages.rounded)[-4:]
        unrolled_vector(sch, [*outer, *sch.split(i, [None, problem.dot.lanes])])
    for loop in (output, vector):
        sch.unroll(loop)
    interleave(sch, lane)


def step_cycles(problem: TapsProblem, sums: int, loads: int, weights: int, target: Target) -> float:
    """Estimated cycles of one step of a register tile: so many vectors of sums, of loads and broadcast weights."""
    loading = loads / target.costs.vector_loads_per_cycle + weights / target.costs.scalar_loads_per_cycle
    return max(arithmetic_cycles(problem.dot, sums, target), loading)


def copying_cycles(problem: TapsProblem, planes: int, target: Target) -> float:
    """Estimated cycles of making the padded planes of so many channels, on one core."""
    return 2 * problem.dot.number_bytes * planes * problem.plane / target.costs.moved_bytes_per_cycle


def positions_of(problem: TapsProblem) -> int:
    """Vectors of a tile, of one of the pixels that begin in a lane."""
    return problem.layout.run // problem.begun // problem.dot.lanes


def stage_bytes(problem: TapsProblem) -> int:
    """Bytes of a channel's planes."""
    return problem.plane * np.dtype(problem.dot.x).itemsize


def taps(problem: TapsProblem) -> int:
    """Dot products of one output and input channel."""
    return prod((problem.layout.kernel[0], problem.parts))
