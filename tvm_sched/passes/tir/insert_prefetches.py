"""Asks for weights before they are needed.

A network's weights are more than the caches hold, so each layer finds its own in DRAM, once an image. The hardware
follows their stream too timidly to hide that: products of 16 tiles by 16 lanes, which need 6 bytes a cycle, ran at half
their speed. One instruction a cache line, `AHEAD` bytes early, brings them into the second level in time.

A schedule marks the loop of its sum (`loops.prefetch_weights`): that is all that a trace of scheduling can hold.
"""

from functools import reduce
from itertools import product
from math import ceil, prod

import tvm_ffi
from tvm import ir, tirx
from tvm.s_tir import SBlockRealize
from tvm.sym import Analyzer
from tvm.tirx import PrimFunc

from tvm_sched.kernels.base import dtype_named
from tvm_sched.kernels.rewrites.loops import PREFETCH
from tvm_sched.kernels.rewrites.tir_blocks import variables
from tvm_sched.targets.sizes import LINE

AHEAD = 4096  # bytes; a few hundred nanoseconds of work
READ, SECOND_LEVEL, DATA = 0, 2, 1  # arguments of llvm.prefetch


def insert_prefetches(func: PrimFunc) -> PrimFunc:
    """The function with prefetches in its marked loops."""
    loops: list = []
    tvm_ffi.structural_walk(func.body, (tirx.For, loops.append), order="post")
    if not any(PREFETCH in loop.annotations for loop in loops):
        return func
    arguments, analyzer = set(func.params), Analyzer()
    for loop in loops:
        analyzer.bind(loop.loop_var, ir.Range.from_min_extent(loop.min, loop.extent))

    def rewrite(loop):
        if PREFETCH not in loop.annotations:
            return loop
        annotations = {key: value for key, value in loop.annotations.items() if key != PREFETCH}
        asked = prefetches(loop.body, arguments, loop.loop_var, analyzer)
        body = tirx.SeqStmt([*asked, loop.body]) if asked else loop.body
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=annotations)

    return tvm_ffi.structural_map(func, (tirx.For, rewrite))


def prefetches(body, arguments, loop_var, analyzer: Analyzer) -> list:
    """One prefetch for each line of the weight that a step of the loop over `loop_var`, the loops in `body`, reads;
    `analyzer` knows how far all loops run.
    """
    loops, realized = [], []
    tvm_ffi.structural_walk(body, (tirx.For, loops.append), order="post")
    tvm_ffi.structural_walk(body, (SBlockRealize, realized.append), order="post")
    realize = realized[-1]  # the sum; what it multiplies may have been picked before
    reads = [read for read in realize.block.reads if read.source in arguments]
    if not reads:  # the zeroing of a sum of one step: TVM copies the mark to its loop
        return []
    weight, where = reads[0].source, [axis.min for axis in reads[0].region]
    where = replaced(
        where, {axis.var: value for axis, value in zip(realize.block.iter_vars, realize.iter_values, strict=True)}
    )
    moving = [loop for loop in loops if any(loop.loop_var in variables(index) for index in where)]
    # A vector's lanes lie side by side: a line holds some of them.
    number = dtype_named(str(weight.dtype)).itemsize
    line = LINE // number
    steps = [range(0, int(loop.extent), line if loop.kind == tirx.ForKind.VECTORIZED else 1) for loop in moving]
    places = [
        replaced(where, {loop.loop_var: at for loop, at in zip(moving, point, strict=True)})
        for point in product(*steps)
    ]
    walked = next((axis for axis, index in enumerate(where) if loop_var in variables(index)), 0)
    ahead = distance(places, weight.shape, walked, AHEAD // number)
    found = []
    for *rest, lane in one_a_line(places, weight.shape, line, analyzer):
        address = tirx.address_of(tirx.BufferLoad(weight, [*rest, lane + ahead]))
        found.append(tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, READ, SECOND_LEVEL, DATA)))
    return found


def distance(places: list[list], shape, axis: int, least: int) -> int:
    """How many numbers further than `places`, the elements of a step, given by their indices, is asked for: `least`.
    Where a step reads several rows, of which the loop walks through `axis`, and these are no longer than that, it is
    whole groups of them: what follows in one row is what the next one is about to read.
    """
    analyzer = Analyzer()
    row = prod(map(int, shape[axis:]))
    rows = [
        [analyzer.simplify(one - first) for one, first in zip(each[:axis], places[0], strict=False)] for each in places
    ]
    if not all(isinstance(apart, tirx.IntImm) for each in rows for apart in each):
        return least
    group = row * len({tuple(map(int, each)) for each in rows})
    return ceil(least / group) * group if row <= least else least


def one_a_line(places: list[list], shape, line: int, analyzer: Analyzer) -> list[list]:
    """Those of an array's elements, given by their indices, that lie no nearer than a `line` of so many to the one
    before: blocks of less than a line share one.
    """

    def offset(place: list):
        return reduce(lambda before, axis: before * axis[0] + axis[1], zip(shape[1:], place[1:], strict=True), place[0])

    first = offset(places[0])
    apart = [analyzer.simplify(offset(place) - first) for place in places]
    if not all(isinstance(distance, tirx.IntImm) for distance in apart):
        return places
    chosen, end = [], None
    for distance, place in sorted(zip(map(int, apart), places, strict=True), key=lambda each: each[0]):
        if end is None or distance >= end:
            chosen.append(place)
            end = distance + line
    return chosen


def replaced(indices: list, values: dict) -> list:
    """The indices with variables replaced by values."""
    constants = {
        var: value if isinstance(value, ir.Expr) else tirx.const(value, "int32") for var, value in values.items()
    }
    return [tvm_ffi.structural_map(index, (tirx.Var, lambda var: constants.get(var, var))) for index in indices]
