"""What a core takes for things that no manual states: the figures by which tiles and kernels are ranked before anything
is measured.

They were measured on one CPU of each kind, or read off LLVM's model of one where there was no board; `measured_on` says
which. `subp calibrate` measures them anew on another CPU, and a target file may state its own (docs/targets.md).
"""

from dataclasses import Field, dataclass, field, fields

BANDWIDTH, RATE, CYCLES, LOADS, INSTRUCTIONS, FACTOR, SHARE = (
    "bytes a cycle",
    "a cycle",
    "cycles",
    "loads",
    "instructions",
    "factor",
    "share",
)
RANGES = {  # unit -> least and most that a figure may be
    BANDWIDTH: (0.01, 4096),
    RATE: (0.1, 64),
    CYCLES: (0, 10_000),
    LOADS: (0, 100),
    INSTRUCTIONS: (0.1, 1000),
    FACTOR: (0.1, 100),
    SHARE: (0.01, 1),
}


def figure(default: float, unit: str, meaning: str) -> float:
    """A field of `Costs`: its figure on Zen 4, its unit (of RANGES) and what it is."""
    return field(default=default, metadata={"unit": unit, "meaning": meaning})


@dataclass(frozen=True)
class Costs:
    """Cycles are of one core; factors multiply the time of the loop or kernel that they name."""

    measured_on: str
    l2_bytes_per_cycle: float = figure(32, BANDWIDTH, "sustained from the second cache")
    far_bytes_per_cycle: float = figure(20, BANDWIDTH, "sustained from beyond the second cache, the third")
    memory_bytes_per_cycle: float = figure(8, BANDWIDTH, "sustained from memory, by all cores together")
    cache_share: float = figure(0.75, SHARE, "of a cache that data may fill before they are taken to have left it")
    moved_bytes_per_cycle: float = figure(
        8, BANDWIDTH, "operands and result together, of what computes next to nothing (pooling, padding)"
    )
    copy_cycles: float = figure(4, CYCLES, "of a vector, read and written")
    rearrange_cycles: float = figure(2, CYCLES, "of a vector that space-to-depth moves")
    gather_cycles: float = figure(1, CYCLES, "of a number that is copied alone")
    vector_loads_per_cycle: float = figure(1, RATE, "vectors that multiply-adds get from the first cache, sustained")
    scalar_loads_per_cycle: float = figure(
        1.85, RATE, "scalars that they get from there, sustained: fewer than ports where they meet in its banks"
    )
    index_loads: float = figure(0, LOADS, "that an index, and what makes an address of it, keep from multiply-adds")
    in_order_load_share: float = figure(0.5, SHARE, "of its loads that an in-order core waits for")
    set_overflow_factor: float = figure(1.6, FACTOR, "more lines of pixels in one set of the first cache than ways")
    bank_factor: float = figure(
        1.2, FACTOR, "loads of scalars for one multiply-add each over taps, which meet in few banks of the first cache"
    )
    # On Zen 4 not measured; on Zen 5 nothing but the tiles of fewest multiply-adds shows it.
    widen_float16_cycles: float = figure(0.1, CYCLES, "to make float32 of a vector of float16 weights, as it is loaded")
    widen_bfloat16_cycles: float = figure(0.1, CYCLES, "the same of bfloat16 weights")
    tile_cycles: float = figure(10, CYCLES, "to begin and end a register tile")
    store_cycles: float = figure(3, CYCLES, "of a sum's epilogue and store")
    block_cycles: float = figure(2, CYCLES, "of a sum of half precision that is added to its total on the stack")
    loop_cycles: float = figure(20, CYCLES, "of a loop that ends: its last branch is mispredicted")
    transform_instructions: float = figure(
        5, INSTRUCTIONS, "of a Winograd transform, a vector of numbers that it reads or writes"
    )
    transpose_cycles: float = figure(
        5.5, CYCLES, "of a vector, bound by the way to the second cache as much as by its shuffles"
    )
    transposed_store_cycles: float = figure(6, CYCLES, "of a vector transposed back and stored")
    spread_cycles: float = figure(0.5, CYCLES, "to spread pixels of several tiles over a vector, for a multiply-add")
    lanes_step_cycles: float = figure(1.5, CYCLES, "of a step with lanes over pixels, besides its multiply-adds")
    # On Zen 4 not measured: by code for it, on Zen 5, what ranks the forms of 39 layers as they were measured (times of
    # the first choices 1.006 times the least).
    integer_store_cycles: float = figure(
        1, CYCLES, "of a vector of integer sums: made a fraction, scaled, rounded, narrowed, stored"
    )
    packed_store_cycles: float = figure(1, CYCLES, "the same, where bytes are stored by whole vectors")
    buffered_store_cycles: float = figure(2, CYCLES, "the same, where bytes go by way of a buffer")
    interleave_cycles: float = figure(2, CYCLES, "of as many interleaved numbers as a vector has bytes")
    # Of bytes 1 to 1.7; of sums, where a residual is added, 4.7. Which it will be nobody knows when forms are chosen.
    turn_cycles: float = figure(
        3, CYCLES, "of a vector of integer sums with lanes over outputs, which is turned over, more than of another"
    )
    tap_cycles: float = figure(0.5, CYCLES, "of a loop around the step of one tap, lanes being outputs")
    added_dot_factor: float = figure(
        1.1, FACTOR, "a dot product whose sum takes an instruction of its own to be added, of a multiply-add's time"
    )
    weights_apart_factor: float = figure(
        1.2, FACTOR, "a step of dot products by lane, where its outputs do not fill registers of weights"
    )
    pick_cycles: float = figure(1.2, CYCLES, "of a number that is copied from where an index says")
    planes_cycles: float = figure(1.2, CYCLES, "of a number that goes between planes and channels last")
    barrier_cycles: float = figure(2500, CYCLES, "to set a second thread to work and wait for it")
    foreign_bytes_per_cycle: float = figure(3.9, BANDWIDTH, "written of lines that another core wrote last")


WIDENING = {"float16": "widen_float16_cycles", "bfloat16": "widen_bfloat16_cycles"}  # by the dtype of weights
FIGURES: dict[str, Field] = {each.name: each for each in fields(Costs) if each.metadata}

ZEN4 = Costs("AMD Zen 4 (EPYC, AVX-512)")
# Loads by direct 1x1 kernels of 1x12 pixels in blocks of a vector, 57 to 62 % of the peak of multiply-adds, and of 1x6
# in blocks of two, 93 to 97 %.
ZEN3 = Costs(
    "AMD Zen 3 (EPYC, AVX2), its scalar loads; AVX2 code on AMD Zen 5, transposed on AMD Zen 4",
    l2_bytes_per_cycle=25.9,
    far_bytes_per_cycle=19.2,
    moved_bytes_per_cycle=20,
    copy_cycles=1.44,
    gather_cycles=0.533,
    vector_loads_per_cycle=1.49,
    scalar_loads_per_cycle=1.4,
    index_loads=0.311,
    widen_float16_cycles=0.03,
    widen_bfloat16_cycles=0.03,
    set_overflow_factor=1.12,
    bank_factor=1.02,
    tile_cycles=2,
    store_cycles=3,
    loop_cycles=5.6,
    transform_instructions=1.77,
    transpose_cycles=2.5,  # as fits whole layers; in the first cache 1.44
    transposed_store_cycles=3.5,  # likewise; 1.2
    spread_cycles=0,
    lanes_step_cycles=0,
    integer_store_cycles=2,
    packed_store_cycles=2,
    buffered_store_cycles=3,
    interleave_cycles=2.5,
    pick_cycles=0.834,
    barrier_cycles=2750,
    foreign_bytes_per_cycle=3.6,  # on AMD Zen 4
)
ZEN5 = Costs(
    "AMD Zen 5 (EPYC, AVX-512)",
    l2_bytes_per_cycle=34.9,
    far_bytes_per_cycle=27.5,
    memory_bytes_per_cycle=12,
    moved_bytes_per_cycle=26.7,
    rearrange_cycles=3.74,
    gather_cycles=0.569,
    vector_loads_per_cycle=1.35,
    scalar_loads_per_cycle=2.04,
    index_loads=0.514,
    widen_float16_cycles=0.03,
    widen_bfloat16_cycles=0.03,
    set_overflow_factor=3.56,
    bank_factor=1,
    tile_cycles=4,
    store_cycles=1,
    loop_cycles=0,
    transform_instructions=4.8,
    transpose_cycles=2.9,
    transposed_store_cycles=2.32,
    spread_cycles=0,
    lanes_step_cycles=0,
    barrier_cycles=3040,
)
NEOVERSE_N1 = Costs(
    "LLVM's model of the Neoverse N1; caches as on Zen 4",
    far_bytes_per_cycle=6,
    memory_bytes_per_cycle=4,
    vector_loads_per_cycle=2,
    scalar_loads_per_cycle=2,
    index_loads=1,
    widen_float16_cycles=1.5,
    widen_bfloat16_cycles=0.6,
    transpose_cycles=2,  # 4x4 numbers take 8 shuffles, 4 loads and 4 stores
    transposed_store_cycles=3,
    lanes_step_cycles=0,
    # of sums that are known to be small, as most are; of others 2 more: `scvtf` and `fcvtns` take one pipe two cycles
    integer_store_cycles=2.9,
    packed_store_cycles=2.3,
    buffered_store_cycles=2.8,
    interleave_cycles=1.6,
)
