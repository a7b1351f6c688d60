"""A target by what a user calls it: a name (`named.py`), a JSON file of one's own (`file.py`), or this
machine.

This machine is the named target whose instructions it has, with caches and cores read from Linux's sysfs.
"""

import platform
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from subp_contract.arguments import require_kind
from subp_contract.errors import UserError
from tvm_sched.runtime import most_threads
from tvm_sched.targets import file
from tvm_sched.targets.costs import ZEN3, ZEN4, ZEN5
from tvm_sched.targets.named import CORTEX_A76, NAMED, X86_AVX2, X86_AVX512
from tvm_sched.targets.target import Target

# Zen 4 splits a 512-bit FMA over its two 256-bit pipes, and Intel's small AVX-512 cores have one pipe: one a cycle.
# These start two; LLVM's names.
TWO_FMA_512 = (
    "skylake-avx512",
    "cascadelake",
    "cooperlake",
    "icelake-server",
    "sapphirerapids",
    "emeraldrapids",
    "graniterapids",
    "znver5",
)
COSTS = {"znver3": ZEN3, "znver4": ZEN4, "znver5": ZEN5}  # by LLVM's name of the CPU they were measured on
CODE_FLAGS = (
    "avx",
    "fma",
    "bmi",
    "f16c",
    "gfni",
    "vaes",
    "vpclmul",
)  # flags of instructions that LLVM uses for a host's own name


def names() -> list[str]:
    """The targets that `get` knows, 'host' first."""
    return ["host", *NAMED]


def get(name: "str | Target") -> Target:
    """The target of that name, or that a file named *.json describes; 'host' is this machine's CPU, its caches and
    cores read from the system.

    Raises UserError if the name is unknown or the file wrong, or if the host's CPU is one that no kernel here is
    written for.
    """
    if isinstance(name, Target):
        return name
    require_kind("target", name, str, "a name, a file NAME.json or a Target")
    if name == "host":
        return host()
    if name.endswith(".json"):
        return file.read(Path(name))
    if name not in NAMED:
        raise UserError(f"unknown target '{name}'; known targets: {', '.join(names())}, or a file NAME.json")
    return NAMED[name]


@cache
def host() -> Target:
    """This machine's CPU: the named target whose instructions it has, with its own core count, caches and LLVM name.
    Raises UserError for a CPU that has neither AVX2 nor NEON.
    """
    from tvm.target.codegen import llvm_get_system_cpu

    machine, flags, cpu = platform.machine(), cpu_flags(), llvm_get_system_cpu()
    if machine == "x86_64" and set(X86_AVX512.cpu_flags) <= flags:
        base = X86_AVX512
    elif machine == "x86_64" and set(X86_AVX2.cpu_flags) <= flags:
        base = X86_AVX2
    elif machine == "aarch64":
        base = NAMED.get(cpu, CORTEX_A76)
    else:
        raise UserError(
            f"this machine's CPU ({machine}) has neither AVX2 nor NEON; choose another target: {', '.join(NAMED)}"
        )
    caches: dict[str, Any] = host_caches()
    return replace(
        base,
        name="host",
        cpu=base.cpu if cpu == "generic" else cpu,
        cores=most_threads(),
        cpu_flags=tuple(sorted(flag for flag in flags if flag.startswith(CODE_FLAGS)))
        if machine == "x86_64"
        else base.cpu_flags,
        fma_per_cycle=2 if cpu in TWO_FMA_512 else base.fma_per_cycle,
        costs=COSTS.get(cpu, base.costs),
        **caches,
    )


def runs_here(target: Target) -> bool:
    """Whether this machine runs the target's code."""
    return target.links and target.arch == platform.machine() and set(target.cpu_flags) <= cpu_flags()


def on_this_machine(target: Target) -> Target:
    """The target as schedules see it, in this machine's instructions. Raises UserError as `host` does."""
    here = host()
    return replace(target, triple=here.triple, cpu=here.cpu, features=here.features, cpu_flags=here.cpu_flags)


def cpu_flags() -> set[str]:
    """Instruction-set flags of this machine, as Linux lists them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[1].split()}


def cpu_name() -> str:
    """This machine's CPU, by its maker's name of the model; its architecture where Linux does not tell one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models and models[0]) or platform.processor() or platform.machine()


@cache
def cpu_model() -> str:
    """`cpu_name` with LLVM's name of the core, 'AMD EPYC (znver5)': virtual machines hide the model's number, so that
    cores of several kinds have one name.
    """
    from tvm.target.codegen import llvm_get_system_cpu

    return f"{cpu_name()} ({llvm_get_system_cpu()})"


def host_caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """`l1_bytes`, `l1_ways`, `l2_bytes` and `last_cache_bytes` of the first core, as far as the system tells them."""
    found: dict[str, int] = {}
    for index in sorted(root.glob("index*")):
        try:
            level, kind, size, ways = (
                (index / f).read_text().strip() for f in ("level", "type", "size", "ways_of_associativity")
            )
        except OSError:
            continue
        size_bytes = int(size.rstrip("KM")) * (1024**2 if size.endswith("M") else 1024)
        if level == "1" and kind == "Data":
            found |= {"l1_bytes": size_bytes, "l1_ways": int(ways)}
        elif level == "2":
            found |= {"l2_bytes": size_bytes}
        elif level == "3":
            found |= {"last_cache_bytes": size_bytes}
    return found
