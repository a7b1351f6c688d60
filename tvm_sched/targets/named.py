"""The CPUs that have a name here.

Figures that steer tiles (registers, caches, FMA rate) need not be exact: they rank candidates, and tuning measures.
Sources: Intel's and AMD's optimisation manuals; Arm's software optimisation guides and technical reference manuals of
the Cortex-A53, A55, A72, A76 and Neoverse N1 (FMLA of four lanes: throughput and latency); for Apple's core, which has
no such guide, Dougall Johnson's measurements. Where a cache's size is the board maker's choice it is that of a board
sold: Raspberry Pi 3 (A53), 4 (A72) and 5 (A76), RK3588 (A55), Graviton 2 (N1).
"""

from dataclasses import replace

from tvm_sched.targets.costs import NEOVERSE_N1 as NEOVERSE_N1_COSTS
from tvm_sched.targets.costs import ZEN3
from tvm_sched.targets.target import Target

X86_AVX512 = Target(
    "x86-avx512",
    "x86-avx512",
    "x86_64-linux-gnu",
    "skylake-avx512",
    lanes=16,
    registers=32,
    fma_per_cycle=1,
    scalar_operand="memory",
    cpu_flags=("fma", "avx512f", "avx512vl", "avx512dq", "avx512bw"),
)
X86_AVX512_VNNI = replace(
    X86_AVX512,
    name="x86-avx512-vnni",
    cpu="cascadelake",
    fma_per_cycle=2,
    cpu_flags=(*X86_AVX512.cpu_flags, "avx512_vnni"),
)
X86_AVX512_BF16 = replace(
    X86_AVX512_VNNI,
    name="x86-avx512-bf16",
    cpu="cooperlake",
    cpu_flags=(*X86_AVX512_VNNI.cpu_flags, "avx512_bf16"),
)
X86_AVX2 = Target(
    "x86-avx2",
    "x86-avx2",
    "x86_64-linux-gnu",
    "core-avx2",
    lanes=8,
    registers=16,
    fma_per_cycle=2,
    scalar_operand="register",
    cpu_flags=("avx2", "fma"),
    l2_bytes=512 * 1024,
    costs=ZEN3,
)
CORTEX_A76 = Target(
    "cortex-a76",
    "cortex-a76",
    "aarch64-linux-gnu",
    "cortex-a76",
    lanes=4,
    registers=32,
    fma_per_cycle=2,
    scalar_operand="lane",
    features=("+neon",),
    cpu_flags=("asimd", "asimddp"),
    l1_bytes=64 * 1024,
    l1_ways=4,
    l2_bytes=512 * 1024,
    last_cache_bytes=2 * 1024 * 1024,
    # the same pipes; what LLVM has under the name of the A76 is the model of the A57, with half its FMAs
    mca="neoverse-n1",
    costs=NEOVERSE_N1_COSTS,
)
NEOVERSE_N1 = replace(
    CORTEX_A76, name="neoverse-n1", cpu="neoverse-n1", l2_bytes=1024 * 1024, last_cache_bytes=32 * 1024 * 1024
)  # the A76's core, with more cache
CORTEX_A72 = replace(
    CORTEX_A76,
    name="cortex-a72",
    family="cortex-a72",
    cpu="cortex-a72",
    cpu_flags=("asimd",),
    fma_per_cycle=1,
    fma_latency=7,
    loads_per_cycle=1,
    l1_bytes=32 * 1024,
    l1_ways=2,
    l2_bytes=1024 * 1024,
    last_cache_bytes=1024 * 1024,
    mca="cortex-a72",
)
CORTEX_A55 = replace(
    CORTEX_A76,
    name="cortex-a55",
    family="cortex-a55",
    cpu="cortex-a55",
    fma_per_cycle=1,
    fma_latency=4,
    loads_per_cycle=1,
    in_order=True,
    l1_bytes=32 * 1024,
    l1_ways=4,
    l2_bytes=128 * 1024,
    mca="cortex-a55",
)
CORTEX_A53 = replace(
    CORTEX_A55,
    name="cortex-a53",
    family="cortex-a53",
    cpu="cortex-a53",
    cpu_flags=("asimd",),
    fma_latency=8,
    l2_bytes=512 * 1024,
    last_cache_bytes=512 * 1024,
    mca="cortex-a53",
)
APPLE_M1 = replace(
    CORTEX_A76,
    name="apple-m1",
    family="apple-m1",
    triple="aarch64-apple-macosx11.0.0",
    cpu="apple-m1",
    fma_per_cycle=4,
    loads_per_cycle=3,
    l1_bytes=128 * 1024,
    l1_ways=8,
    l2_bytes=12 * 1024 * 1024,
    last_cache_bytes=12 * 1024 * 1024,
    mca="",
)
NAMED = {
    target.name: target
    for target in (
        X86_AVX2,
        X86_AVX512,
        X86_AVX512_VNNI,
        X86_AVX512_BF16,
        CORTEX_A76,
        CORTEX_A72,
        CORTEX_A55,
        CORTEX_A53,
        NEOVERSE_N1,
        APPLE_M1,
    )
}
