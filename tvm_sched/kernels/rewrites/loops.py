"""Rewrites of loops that several schedules share."""

from dataclasses import replace
from itertools import product
from math import ceil

from tvm.s_tir import Schedule

from tvm_sched.kernels.ranking import divisors
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import HALF, LINE

PARTITION = "pragma_loop_partition_hint"  # TVM's annotation
PREFETCH = "tvm_sched.prefetch"  # ours, for passes/tir/insert_prefetches
ROLLED = "tvm_sched.rolled"  # ours, for passes/integer/lower_dots
BLOCK_STEPS = "tvm_sched.block_steps"  # ours, for passes/tir/sum_in_blocks
FIRST_PRODUCT = "tvm_sched.first_product"  # ours, for passes/tir/first_products


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


def keep_rolled(sch: Schedule, loop):
    """The loop, the outermost of a sum of dot products, is not unrolled by LLVM."""
    sch.annotate(loop, ROLLED, 1)


def sum_in_blocks(sch: Schedule, loop, steps: int, target: Target) -> None:
    """In half precision the loop, the outermost of a sum, adds up blocks of at most so many steps (at least one),
    rather than one product after another.
    """
    if target.number_bytes == HALF:
        sch.annotate(loop, BLOCK_STEPS, max(1, steps))


def apart(sch: Schedule, block, axis: int, target: Target) -> None:
    """Places what the block writes an odd number of cache lines apart along an axis."""
    line = LINE // target.number_bytes
    sch.storage_align(block, 0, axis=axis, factor=2 * line, offset=line)


def start_with_product(sch: Schedule, block):
    """The sum's first step stores its product instead of adding it to zero. For a sum that is unrolled as a whole, its
    zeroing not taken out of it.
    """
    sch.annotate(block, FIRST_PRODUCT, 1)


def worth_threads(cycles: float, target: Target) -> bool:
    """Whether threads save more of work that takes one core so long than it costs to set them to it; of code for one
    core whether two would, on which it may be run too.
    """
    shared = replace(target, cores=max(target.cores, 2))
    return cycles * (1 - 1 / shared.cores) > shared.barrier_cycles


def share(steps: int, threads: int) -> float:
    """Of a loop's steps the busiest thread's, as a fraction."""
    return ceil(steps / threads) / steps


def bands(rows: int, threads: int) -> int:
    """The divisor of `rows` that leaves the busiest of `threads` threads the fewest rows; the smallest such divisor."""
    return pieces(1, rows, 1, threads)[0]


def pieces(images: int, rows: int, columns: int, threads: int) -> tuple[int, int]:
    """Divisors of `rows` and of `columns` into which each of `images` is cut, so that the busiest of `threads` threads
    gets the least; of these the fewest columns, then rows.
    """

    def busiest(cut: tuple[int, int]) -> int:
        return ceil(images * cut[0] * cut[1] / threads) * (rows // cut[0]) * (columns // cut[1])

    cuts = product(divisors(rows, rows), divisors(columns, columns))
    return min(cuts, key=lambda cut: (busiest(cut), cut[1], cut[0]))
