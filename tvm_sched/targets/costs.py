"""What a core takes for things that no manual states: the figures by which tiles and kernels are ranked before anything
is measured.

They were measured on one CPU of each kind, or read off LLVM's model of one where there was no board; `measured_on` says
which. `subp calibrate` measures them anew on another CPU, and a target file may state its own (docs/targets.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Cycles are of one core; factors multiply the time of the loop or kernel that they name."""

    measured_on: str
    l2_bytes_per_cycle: float = 32  # sustained from the second cache
    far_bytes_per_cycle: float = 6  # from beyond it
    cache_share: float = 0.75  # of a cache that data may fill before they are taken to have left it
    moved_bytes_per_cycle: float = (
        8  # operands and result together, of what computes next to nothing (pooling, padding)
    )
    copy_cycles: float = 4  # of a vector, read and written
    rearrange_cycles: float = 2  # of a vector that space-to-depth moves
    gather_cycles: float = 1  # of a number that is copied alone
    narrow_fma_per_cycle: float = (
        1.85  # multiply-adds of less than a vector, as far as the first cache gives two scalars
    )
    index_chain_factor: float = 1  # loads where an index, its address, a pixel and one multiply-add follow one another
    latency_factor: float = 1.5  # of a step that waits for the sums of the one before
    in_order_load_share: float = 0.5  # of its loads that an in-order core waits for
    set_overflow_factor: float = 1.6  # more lines of pixels in one set of the first cache than it has ways
    bank_factor: float = 1.2  # short vectors over taps, whose scalars meet in few banks of the first cache
    tile_cycles: float = 10  # to begin and end a register tile
    store_cycles: float = 3  # of a sum's epilogue and store
    loop_cycles: float = 20  # of a loop that ends: its last branch is mispredicted
    transform_instructions: float = 5  # vector instructions of a Winograd transform a number that it reads or writes
    cut_tile_factor: float = 2.5  # products of a band whose last register tile is cut short: its sums stay in memory
    transpose_cycles: float = 5.5  # of a vector, bound by the way to L2 as much as by its shuffles
    transposed_store_cycles: float = 6  # of a vector transposed back, while the store buffer takes it
    far_transposed_store_cycles: float = 10  # of a vector where the store buffer is full
    lanes_step_cycles: float = 2.5  # of a step with lanes over pixels, besides its multiply-adds
    rest_factor: float = 1.5  # loads of the pixels that a vector of them leaves over


ZEN4 = Costs("AMD Zen 4 (EPYC, AVX-512)")
NEOVERSE_N1 = Costs(
    "LLVM's model of the Neoverse N1; caches as on Zen 4",
    index_chain_factor=1.2,
    transpose_cycles=2,  # 4x4 numbers take 8 shuffles, 4 loads and 4 stores
    transposed_store_cycles=3,
    far_transposed_store_cycles=3,
    lanes_step_cycles=0,
)
