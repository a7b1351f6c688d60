"""Reductions along other axes than the contiguous one: pooling, mean over an image, matrix products, convolutions of
any rank.

    y[..., row, ..., lane] = sum_k f(x[k, lane], w[row, k], ...)

Lanes run along the output's contiguous axis. A few vectors, and in a product a few rows that use the same vectors, are
summed together in registers; what follows elementwise on the sums is computed while they are still there.
"""

from math import prod

from tvm import ir, tirx
from tvm.s_tir import Schedule

from tvm_sched.kernels.rewrites.loops import bands, partition
from tvm_sched.kernels.rewrites.tir_blocks import (
    Axis,
    axes,
    blocks_of,
    chosen_by,
    is_regular,
    is_spatial,
    output,
    reads_in_place,
    shared,
    variables,
)
from tvm_sched.targets import Target

MOST_UNROLLED = 32  # steps of a pooling window
MOST_ROWS, MOST_VECTORS = 8, 4


def epilogue_of(sch: Schedule, block):
    """The elementwise block behind `block` that alone reads it, and reads nothing else that the function computes; None
    if there is none.
    """
    readers, rank = sch.get_consumers(block), len(output(sch, block).shape)
    if len(readers) != 1 or not is_regular(sch, readers[0]) or not is_spatial(sch, readers[0]):
        return None
    if len(sch.get_producers(readers[0])) > 1:
        return None
    return readers[0] if len(axes(sch, readers[0])) == rank and reads_in_place(sch, readers[0], block, rank) else None


def schedule(sch: Schedule, block, epilogue, target: Target):
    """Puts sums into registers, rows by vectors at a time; `epilogue`, or a copy if there is none, takes them from
    there.
    """
    every = axes(sch, block)
    spatial, reduced = [a for a in every if not a.reduced], [a for a in every if a.reduced]
    lanes_at = max((i for i, a in enumerate(spatial) if a.extent > 1), default=len(spatial) - 1)
    if spatial[lanes_at].extent > target.lanes and spatial[lanes_at].extent % target.lanes and is_product(sch, block):
        epilogue = pad_lanes(sch, block, epilogue, lanes_at, target)
        spatial = [a for a in axes(sch, block) if not a.reduced]
        reduced = [a for a in axes(sch, block) if a.reduced]
    rows_at = rows_axis(sch, block, spatial, lanes_at)
    width = min(target.lanes, spatial[lanes_at].extent)
    rows, vectors = tile(1 if rows_at is None else spatial[rows_at].extent, spatial[lanes_at].extent // width, target)
    sizes = {lanes_at: vectors * width} | ({} if rows_at is None else {rows_at: rows})
    uneven = chosen_by(sch, block) | {spatial[i].var for i, size in sizes.items() if spatial[i].extent % size}
    worth_threads = shared(sch, [block], target)
    if epilogue is None:
        epilogue = sch.cache_write(block, 0, "local")
    else:
        sch.set_scope(block, 0, "local")

    # 1. Outside: where the tile is. In a tile: the sum. In the sum: registers.
    outer, inner = [a.loop for a in spatial], []
    for i, size in sorted(sizes.items(), key=lambda item: item[0] == lanes_at):
        outer[i], part = sch.split(outer[i], [None, size])
        inner.append(part)
    inner[-1:] = sch.split(inner[-1], [None, width])
    sch.reorder(*outer, *(a.loop for a in reduced), *inner)

    # 2. Threads share the first axis that has more than one step.
    first = next((i for i, loop in enumerate(outer) if int(sch.get(loop).extent) > 1), len(outer) - 1)
    band, outer[first] = sch.split(outer[first], [bands(int(sch.get(outer[first]).extent), target.cores), None])
    sch.reverse_compute_at(epilogue, outer[-1], preserve_unit_loops=True)

    # 3. Lanes are a vector; the rest of the tile and a small window are unrolled; tiles that are cut short get code of
    # their own.
    after = sch.get_loops(epilogue)[-len(spatial) :]
    after[lanes_at : lanes_at + 1] = sch.split(after[lanes_at], [None, width])
    *inner, lane = inner
    for loop in (lane, after.pop(lanes_at + 1)):
        sch.vectorize(loop)
    window = [a.loop for a in reduced] if rows == 1 and prod(a.extent for a in reduced) <= MOST_UNROLLED else []
    for loop in (*inner, *after, *window):
        sch.unroll(loop)
    for axis, loop in zip(spatial, outer, strict=True):
        if axis.var in uneven:
            partition(sch, loop)
    if worth_threads:
        sch.parallel(sch.fuse(*outer[:first], band))
    sch.decompose_reduction(block, reduced[0].loop)


def is_product(sch: Schedule, block) -> bool:
    """Whether the block sums products of two elements, each read at axes of the block: a matrix product of any rank."""
    value = sch.get(block).body.value
    own = {axis.var for axis in axes(sch, block)}
    factors = [value.b.a, value.b.b] if isinstance(value, tirx.Add) and isinstance(value.b, tirx.Mul) else []
    return bool(factors) and all(isinstance(factor, ir.TensorLoad) and set(factor.indices) <= own for factor in factors)


def pad_lanes(sch: Schedule, block, epilogue, lanes_at: int, target: Target):
    """Fills the last vectors of a product with zeros, so that none is cut short but when it is stored. Returns the
    block that stores.

    The operand that the lanes run along is copied for that, which is little beside the product.
    """
    known = {sch.get(each).name_hint for each in blocks_of(sch)}
    sch.pad_einsum(block, [target.lanes if i == lanes_at else 1 for i in range(len(axes(sch, block)))])
    for copy in sch.get_producers(block):
        if sch.get(copy).name_hint not in known:
            *rows, last = sch.get_loops(copy)
            vectors, lane = sch.split(last, [None, target.lanes])
            sch.vectorize(lane)
            partition(sch, vectors)
            if shared(sch, [copy], target):
                sch.parallel(sch.fuse(*rows))
    (cut,) = sch.get_consumers(block)
    if epilogue is None:
        return cut
    sch.compute_inline(cut)
    return epilogue


def rows_axis(sch: Schedule, block, spatial: list[Axis], lanes_at: int) -> int | None:
    """The last axis whose every step reads the same vectors, as the rows of a matrix product do; None where no vector
    is read twice.
    """
    lanes = spatial[lanes_at].var
    vectors = [set().union(*(variables(where.min) for where in read.region)) for read in sch.get(block).reads]
    vectors = [names for names in vectors if lanes in names]
    found = [
        i
        for i, a in enumerate(spatial)
        if i != lanes_at and a.extent > 1 and not any(a.var in names for names in vectors)
    ]
    return max(found, default=None)


def tile(rows: int, vectors: int, target: Target) -> tuple[int, int]:
    """(rows, vectors) whose sums fit the registers, beside the vectors that the rows share."""
    if rows == 1:
        return 1, even_part(vectors, MOST_VECTORS)
    vectors = min(vectors, 2)
    room = target.registers - vectors - (0 if target.scalar_operand == "memory" else 1)
    return even_part(rows, min(MOST_ROWS, room // vectors)), vectors


def even_part(number: int, most: int) -> int:
    """The largest divisor of `number` from half of `most` to `most`, else `most`; `number` itself if it is no more."""
    if number <= most:
        return number
    return next((d for d in range(most, most // 2, -1) if number % d == 0), most)
