"""Linear layer of 8-bit integers over 1xN blocks: lanes over the N outputs of a block, sums in int32.

    X[g, m, k, j]     = x[m, indices[g, k*J + j]]                      J channels side by side
    S[m, g*N + lane]  = sum_{k, j} data[g, k, lane, j] * X[g, m, k, j]

`x [..., C]` uint8 (int8 on ARM), `data [G, K, N, J]` int8, `indices [G, K*J]` int32, `S [..., O]` int32, or 8 bits
where the layer rounds; G = ceil(O / N), m counts the rows of x. J channels are what a dot product takes (`dots.py`). A
vector of weights meets J channels of one row, which go to all its lanes: so a layer of few rows, as a classifier is,
reads its weights once and little else. Kept channels are gathered, one number at a time, for each block row and row: of
many rows, `planar_conv2d` takes vectors of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.s_tir import Schedule

from subp_contract import pattern
from tvm_sched.kernels import register_tile
from tvm_sched.kernels.base import Form, least_cycles, with_channels
from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.direct_conv2d import transform_axes
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue
from tvm_sched.kernels.integer.dots import DOTS, Dot, arithmetic_cycles, dot_for, in_groups, sum_up
from tvm_sched.kernels.integer.integer_kernel import IntegerKernel
from tvm_sched.kernels.integer.planar.planes import up
from tvm_sched.kernels.integer.planar.problem import DOT
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import divisors, rounded
from tvm_sched.kernels.rewrites.loops import bands, partition, split_lanes, unrolled_vector
from tvm_sched.targets import Target

NAME = "integer_linear"  # the block of products
GATHERED, ROUNDED, RESULT = (f"{NAME}_{stage}" for stage in ("gathered", "rounded", "result"))
MOST_ROWS, MOST_BLOCK_ROWS = 8, 8  # of a register tile
TOGETHER = 4  # rows of x


@dataclass(frozen=True)
class LinearProblem:
    """A linear layer in blocks of kept channels: 1x1 pixels are its rows."""

    conv: ConvProblem
    dot: Dot

    @property
    def rows(self) -> int:
        """Of x."""
        return self.conv.image[-1]

    @property
    def computed(self) -> int:
        """Rows that are computed: of many, some more, so that register tiles divide them."""
        return self.rows if self.rows <= MOST_ROWS else up(self.rows, TOGETHER)

    @property
    def groups(self) -> int:
        """K: of kept channels."""
        return ceil(self.conv.kept / self.dot.group)

    @property
    def vectors(self) -> int:
        """Of a block's outputs."""
        return self.conv.n // self.dot.lanes

    @property
    def gathered(self) -> bool:
        """Whether channels are put together before: kept ones, wider ones, or the last group's that is not full."""
        dot = self.dot
        return self.conv.indexed or dot.x != dot.activation or self.conv.channels % dot.group > 0

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.conv.attributes() | {DOT: self.dot.name}


@dataclass(frozen=True)
class LinearTile:
    """In registers: so many rows of x by the outputs of so many block rows."""

    rows: int
    block_rows: int

    def __str__(self) -> str:
        return f"{self.rows} rows x {self.block_rows} block rows in registers"


def linear(
    x: te.Tensor,
    data: te.Tensor,
    *more: te.Tensor,
    problem: LinearProblem,
    out_channels: int,
    rounding: Rounding | None = None,
    marks: dict | None = None,
) -> te.Tensor:
    """The algorithm, free of any order. `more`: indices, where the problem has them, then what `rounding` takes;
    `marks` become attributes of the block of products.
    """
    indices, more = (more[0], more[1:]) if problem.conv.indexed else (None, more)
    *extents, channels = (int(extent) for extent in x.shape)
    block_rows, groups, n, group = (int(extent) for extent in data.shape)

    def number(m, channel):
        m = m if problem.computed == problem.rows else tirx.min(m, problem.rows - 1)
        steps = [prod(extents[axis + 1 :]) for axis in range(len(extents))]
        place = [m // step % extent for step, extent in zip(steps, extents, strict=True)]
        return x(*place, channel)

    def channel(g, last):
        if indices is not None:
            return indices[g, last]
        return tirx.min(last, channels - 1) if channels % group else last

    def gathered(g, m, k, j):
        return number(m, channel(g, k * group + j)).astype(problem.dot.x)

    shape = (1 if indices is None else block_rows, problem.computed, groups, group)
    together = te.compute(shape, gathered, name=GATHERED) if problem.gathered else gathered
    k, j = te.reduce_axis((0, groups), "k"), te.reduce_axis((0, group), "j")

    def product(m, o):
        taken = together(0 if indices is None else o // n, m, k, j)
        return te.sum(data[o // n, k, o % n, j].astype("int32") * taken.astype("int32"), axis=[k, j])

    attributes = problem.attributes() | (marks or {})
    sums = te.compute((problem.computed, block_rows * n), product, name=NAME, attrs=attributes)
    if rounding is not None:
        total = sums
        sums = te.compute(
            total.shape,
            lambda m, o: rounding.of_channel(total(m, o), more, tirx.min(o, out_channels - 1)),
            name=ROUNDED,
        )

    def result(*position):
        *place, o = position
        return sums[flat(place, extents), o]

    return te.compute((*extents, out_channels), result, name=RESULT)


def flat(position: Sequence, extents: Sequence[int]):
    """A position in an array of these extents, as one number."""
    return sum(axis * prod(extents[i + 1 :]) for i, axis in enumerate(position))


def tiles(problem: LinearProblem, target: Target, most: int = 16) -> list[LinearTile]:
    """Tiles that fit the registers, cheapest first."""
    found = [
        LinearTile(rows, block_rows)
        for rows in divisors(problem.computed, MOST_ROWS)
        for block_rows in divisors(problem.conv.block_rows, MOST_BLOCK_ROWS)
        if problem.vectors * (rows * block_rows + 1) + rows + problem.dot.constants <= target.registers
    ] or [LinearTile(1, 1)]

    def preference(tile: LinearTile) -> tuple:
        return rounded(cycles(problem, tile, target)), abs(tile.rows * tile.block_rows * problem.vectors - 16)

    return sorted(found, key=preference)[:most]


def cycles(problem: LinearProblem, tile: LinearTile, target: Target, fma_cycles: float | None = None) -> float:
    """Estimated cycles on the target's cores."""
    conv, dot, costs = problem.conv, problem.dot, target.costs
    weights = tile.block_rows * problem.vectors  # vectors of a step
    arithmetic = arithmetic_cycles(dot, weights * tile.rows, target, fma_cycles)
    broadcast = tile.rows * (tile.block_rows if conv.indexed else 1)
    loads = weights / costs.vector_loads_per_cycle + broadcast / costs.scalar_loads_per_cycle
    read = weights * dot.lanes * dot.group / costs.l2_bytes_per_cycle / (problem.computed // tile.rows)
    step = max(register_tile.together(arithmetic, target.fma_latency, 0.0), loads, read)
    register_tiles = conv.block_rows / tile.block_rows * (problem.computed // tile.rows)
    product = register_tiles * (problem.groups * step + costs.tile_cycles)
    stored = problem.computed * conv.block_rows * problem.vectors * costs.integer_store_cycles
    taken = problem.computed * problem.groups * dot.group
    gathering = taken * conv.block_rows * costs.pick_cycles if conv.indexed else 0.0
    return (product + stored + gathering) / target.cores


def schedule(sch: Schedule, tile: LinearTile, target: Target) -> None:
    """Rewrites the compute, and the elementwise chain fused behind it, into register tiles."""
    problem = KERNEL.problem(sch)
    conv, dot = problem.conv, problem.dot
    gathered, product, rounding, result = (find_block(sch, name) for name in (GATHERED, NAME, ROUNDED, RESULT))

    # 1. Outputs: block rows, and in each the rows of x, so that weights are read from afar once.
    epilogue = merge_epilogue(sch, result)
    sch.compute_inline(result)
    if rounding is not None:
        sch.compute_inline(rounding)
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(epilogue)]
    if len(extents) > 2:
        transform_axes(sch, [epilogue], lambda *axes: [flat(axes[:-1], extents[:-1]), axes[-1]])
    m, o = sch.get_loops(epilogue)
    outputs, width = extents[-1], tile.block_rows * conv.n
    m, row = sch.split(m, [None, tile.rows])
    o, vector, lane = sch.split(o, [None, width // dot.lanes, dot.lanes])
    band, o = sch.split(o, [bands(ceil(outputs / width), target.cores), None])
    sch.reorder(band, o, m, row, vector, lane)
    sch.compute_at(product, m, preserve_unit_loops=True)
    sch.set_scope(product, 0, "local")
    unrolled_vector(sch, [row, vector, lane])
    if outputs % width:
        partition(sch, o)
    if problem.computed > problem.rows:
        partition(sch, m)

    # 2. What they read.
    if conv.indexed:
        sch.compute_at(gathered, o, preserve_unit_loops=True)
        block_row, m, k, j = sch.get_loops(gathered)[-4:]
        sch.reorder(block_row, k, j, m)
    elif gathered is not None:
        split_lanes(sch, sch.fuse(*sch.get_loops(gathered)[-2:]), target.lanes)

    # 3. Threads; then the zeroing leaves the sum, and what is left of it is dot products.
    sch.parallel(band)
    row, output, k, j = sch.get_loops(product)[-4:]
    vector, lane = sch.split(output, [None, dot.lanes])
    sch.reorder(k, row, vector, lane, j)
    sum_up(sch, product, k, [row, vector], lane, dot, of_outputs=True)
    finish(sch, target)


class IntegerLinear(IntegerKernel):
    """Takes linear layers of integers, in blocks of whole vectors."""

    name = NAME
    compute = staticmethod(linear)

    def forms(self, layer: Layer, target: Target) -> Iterator[Form]:
        dot = dot_for(layer, target)
        if not layer.linear or layer.dtype != dot.activation or len(layer.output) < 2:
            return
        for n in pattern.SIZES:
            if n % dot.lanes == 0:
                problem = LinearProblem(layer.problem(n), dot)
                yield Form(self, layer, problem, n, "integer linear", least_cycles(self, problem, target), rank=0)

    def pack(self, form: Form) -> list[np.ndarray]:
        dot, problem = form.problem.dot, form.problem
        data, indices = pattern.pack(form.layer.weight, form.kept, form.n)  # [G, K, 1, 1, N]
        data, indices = in_groups(data[:, :, 0, 0], indices, problem.groups, dot.group)
        return [data.transpose(0, 1, 3, 2).astype("int8"), *indices]

    def options(self, form: Form) -> dict[str, Any]:
        return {"out_channels": form.layer.out_channels}

    def problem(self, sch: Schedule) -> LinearProblem:
        notes = sch.get(find_block(sch, NAME)).annotations
        return LinearProblem(ConvProblem.of_block(notes), DOTS[str(notes[DOT])])

    tiles = staticmethod(tiles)
    cycles = staticmethod(cycles)
    schedule = staticmethod(schedule)

    def arguments(self, problem: LinearProblem, infos, rng: np.random.Generator) -> list[np.ndarray]:
        return with_channels(super().arguments(problem, infos, rng), infos, problem.conv.channels, rng)


KERNEL = IntegerLinear()
