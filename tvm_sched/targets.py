"""Named CPU targets: what TVM must know to generate code, and what a schedule must know to choose its tiles.

A `Target` joins the two, so that a kernel asks one object. Figures that steer tiles (registers, caches, FMA rate) need not be exact: they rank
candidates, and tuning measures. Sources: Intel and AMD optimisation manuals, Arm Cortex-A76 software optimisation guide; caches of the
host are read from Linux's sysfs.
"""

import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tvm_sched.errors import UserError
from tvm_sched.runtime import most_threads


@dataclass(frozen=True)
class Target:
    """A CPU as the compiler and the schedules see it. Sizes in bytes."""

    name: str
    family: str  # the named target whose instructions these are: where its tuning records are kept
    triple: str  # LLVM target triple
    cpu: str  # LLVM -mcpu
    lanes: int  # fp32 numbers in a vector register
    registers: int  # vector registers
    fma_per_cycle: int  # vector FMAs started a cycle
    broadcast_operand: bool  # an FMA takes a scalar from memory (AVX-512) or from a lane (NEON): no register is spent on it
    features: tuple[str, ...] = ()  # LLVM -mattr
    cpu_flags: tuple[str, ...] = ()  # what the CPU must have, in Linux's words
    fma_latency: int = 4  # cycles
    l1_bytes: int = 32 * 1024
    l1_ways: int = 8
    l2_bytes: int = 1024 * 1024
    cores: int = 4

    @property
    def arch(self) -> str:
        """Architecture of the code: 'x86_64' or 'aarch64'."""
        return self.triple.split("-")[0]

    def tvm(self):
        """The `tvm.target.Target` to generate code for."""
        import tvm

        keys = [self.family, *(["arm_cpu"] if self.arch == "aarch64" else []), "cpu"]  # the family tells one record from another's
        config = {"kind": "llvm", "keys": keys, "mtriple": self.triple, "mcpu": self.cpu, "num-cores": self.cores}
        if self.features:
            config["mattr"] = list(self.features)
        return tvm.target.Target(config)


X86_AVX512 = Target(
    "x86-avx512", "x86-avx512", "x86_64-linux-gnu", "skylake-avx512", lanes=16, registers=32, fma_per_cycle=1, broadcast_operand=True,
    cpu_flags=("fma", "avx512f", "avx512vl", "avx512dq", "avx512bw"),
)
X86_AVX2 = Target(
    "x86-avx2", "x86-avx2", "x86_64-linux-gnu", "core-avx2", lanes=8, registers=16, fma_per_cycle=2, broadcast_operand=False,
    cpu_flags=("avx2", "fma"), l2_bytes=512 * 1024,
)
CORTEX_A76 = Target(
    "cortex-a76", "cortex-a76", "aarch64-linux-gnu", "cortex-a76", lanes=4, registers=32, fma_per_cycle=2, broadcast_operand=True,
    features=("+neon",), cpu_flags=("asimd",), l1_bytes=64 * 1024, l1_ways=4, l2_bytes=512 * 1024,
)
# Zen 4 splits a 512-bit FMA over its two 256-bit pipes, and Intel's small AVX-512 cores have one pipe: one a cycle. These start two; LLVM's names.
TWO_FMA_512 = ("skylake-avx512", "cascadelake", "cooperlake", "icelake-server", "sapphirerapids", "emeraldrapids", "graniterapids", "znver5")
CODE_FLAGS = ("avx", "fma", "bmi", "f16c", "gfni", "vaes", "vpclmul")  # flags of instructions that LLVM uses for a host's own name
NAMED = {target.name: target for target in (X86_AVX2, X86_AVX512, CORTEX_A76)}


def names() -> list[str]:
    """The targets that `get` knows, 'host' first."""
    return ["host", *NAMED]


def get(name: "str | Target") -> Target:
    """The target of that name; 'host' is this machine's CPU, its caches and cores read from the system.

    Raises UserError if the name is unknown, or if the host's CPU is one that no kernel here is written for.
    """
    if isinstance(name, Target):
        return name
    if name == "host":
        return host()
    if name not in NAMED:
        raise UserError(f"unknown target '{name}'; known targets: {', '.join(names())}")
    return NAMED[name]


@cache
def host() -> Target:
    """This machine's CPU: the named target whose instructions it has, with its own core count, caches and LLVM name."""
    machine = platform.machine()
    flags = cpu_flags()
    if machine == "x86_64" and set(X86_AVX512.cpu_flags) <= flags:
        base = X86_AVX512
    elif machine == "x86_64" and set(X86_AVX2.cpu_flags) <= flags:
        base = X86_AVX2
    elif machine == "aarch64":
        base = CORTEX_A76
    else:
        raise UserError(f"this machine's CPU ({machine}) has neither AVX2 nor NEON; choose another target: {', '.join(NAMED)}")
    from tvm.target.codegen import llvm_get_system_cpu

    cpu = llvm_get_system_cpu()
    return replace(
        base, name="host", cpu=base.cpu if cpu == "generic" else cpu, cores=most_threads(),
        cpu_flags=tuple(sorted(flag for flag in flags if flag.startswith(CODE_FLAGS))) if machine == "x86_64" else base.cpu_flags,
        fma_per_cycle=2 if cpu in TWO_FMA_512 else base.fma_per_cycle,
        **host_caches(),
    )


def cpu_flags() -> set[str]:
    """Instruction-set flags of this machine, as Linux lists them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


def host_caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """`l1_bytes`, `l1_ways` and `l2_bytes` of the first core, as far as the system tells them."""
    found = {}
    for index in sorted(root.glob("index*")):
        try:
            level, kind, size, ways = ((index / f).read_text().strip() for f in ("level", "type", "size", "ways_of_associativity"))
        except OSError:
            continue
        size_bytes = int(size.rstrip("KM")) * (1024**2 if size.endswith("M") else 1024)
        if level == "1" and kind == "Data":
            found |= {"l1_bytes": size_bytes, "l1_ways": int(ways)}
        elif level == "2":
            found |= {"l2_bytes": size_bytes}
    return found
