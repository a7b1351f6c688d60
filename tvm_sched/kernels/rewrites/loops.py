"""Rewrites of loops that several schedules share."""

from math import ceil

from tvm.s_tir import Schedule

PARTITION = "pragma_loop_partition_hint"  # TVM's annotation
PREFETCH = "tvm_sched.prefetch"  # ours, for passes/tir/insert_prefetches
FIRST_PRODUCT = "tvm_sched.first_product"  # ours, for passes/tir/first_products
PARALLEL_FROM = 1 << 14  # steps of a loop nest; for fewer, waking the threads costs more than they save


def split_lanes(sch: Schedule, loop, lanes: int):
    """[vectors, lane] of a loop, the lane vectorised. A last vector that is cut short gets code of its own; a short
    loop is one vector.
    """
    extent = int(sch.get(loop).extent)
    vectors, lane = sch.split(loop, [None, min(lanes, extent)])
    sch.vectorize(lane)
    if extent > lanes and extent % lanes:
        partition(sch, vectors)
    return vectors, lane


def unrolled_vector(sch: Schedule, loops) -> None:
    """Vectorises the last loop and unrolls the others: what they run over is registers."""
    *outer, lane = loops
    for loop in outer:
        sch.unroll(loop)
    sch.vectorize(lane)


def partition(sch: Schedule, loop):
    """The loop's first and last iterations get code of their own where a condition tells them apart: no test is left
    inside.
    """
    sch.annotate(loop, PARTITION, 1)


def prefetch_weights(sch: Schedule, loop):
    """Each step of the loop, the outermost of a sum, asks for weights of later steps. Of the function's arguments its
    block reads the weights first.
    """
    sch.annotate(loop, PREFETCH, 1)


def start_with_product(sch: Schedule, block):
    """The sum's first step stores its product instead of adding it to zero. For a sum that is unrolled as a whole, its
    zeroing not taken out of it.
    """
    sch.annotate(block, FIRST_PRODUCT, 1)


def bands(rows: int, threads: int) -> int:
    """The divisor of `rows` that leaves the busiest of `threads` threads the fewest rows; the smallest such divisor."""
    return min((d for d in range(1, rows + 1) if rows % d == 0), key=lambda d: (ceil(d / threads) * (rows // d), d))
