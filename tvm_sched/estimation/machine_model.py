"""What a core's pipes make of a kernel's inner loops, read from the assembly: LLVM's scheduling model of the core, by
llvm-mca.

Nothing is run, so this needs no board. The model knows pipes, latencies and the reorder buffer; it takes every load for
a hit in the first cache and every branch for predicted. `estimate` adds the caches.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tvm import IRModule
from tvm.s_tir import Schedule

from subp_contract.errors import UserError
from tvm_sched import codegen
from tvm_sched.kernels import Kernel
from tvm_sched.targets import Target

# 14, which Debian 12 calls llvm-mca, has no model of the Neoverse N1.
COMMANDS = ("llvm-mca-19", "llvm-mca-20", "llvm-mca-21", "llvm-mca")
LEAST_VERSION = 19
ITERATIONS = 100  # of a loop, until its steady state decides
MAIN_SHARE = 0.3  # of multiply-adds among a loop's instructions: a transformation of tiles has half of that
JUMP = re.compile(r"\t(?:b(?:\.\w+)?|cbn?z|tbn?z)\s(?:.*\s)?(\.?\w+)$")
LABEL = re.compile(r"(\.?\w+):$")
# A sum's first may be a product alone; of 8-bit integers they are dot products, or widening ones.
FMA = re.compile(r"\t(?:f(?:mla|mul)|sdot|sm(?:la|ul)l2?)\tv\d+\.\d[sdh], ")
BY_ELEMENT = re.compile(FMA.pattern + r".*\.(?:[sh]|4b)\[\d\]")
CYCLES = re.compile(r"^Total Cycles:\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Loop:
    """An innermost loop of AArch64 code: the instructions from its head to the jump back."""

    body: tuple[str, ...]

    @cached_property
    def fmas(self) -> int:
        """Vector multiply-adds a step."""
        return sum(bool(FMA.match(line)) for line in self.body)

    @cached_property
    def by_element(self) -> int:
        """Those that take their scalar from a register's lane."""
        return sum(bool(BY_ELEMENT.match(line)) for line in self.body)

    @cached_property
    def stack(self) -> int:
        """Instructions that load from the stack, or store there."""
        return sum("[sp" in line for line in self.body)

    def cycles(self, target: Target) -> float:
        """Cycles of a step by the model of the target's core. Raises UserError without llvm-mca, or where LLVM has no
        model of the core.
        """
        return simulated(self.body, target.mca, target.name)

    def fma_bound(self, target: Target) -> float:
        """The share of those cycles that multiply-adds alone would take."""
        return self.fmas / target.fma_per_cycle / self.cycles(target)


def innermost_loops(assembly: str) -> list[Loop]:
    """The loops of AArch64 assembly that hold no other, in order. LLVM lays a loop out in one piece, its jump back at
    the end.
    """
    lines = [line.split("//")[0].rstrip() for line in assembly.splitlines()]
    lines = [line for line in lines if line and (LABEL.match(line) or not line.lstrip().startswith("."))]
    labels = {match[1]: i for i, line in enumerate(lines) if (match := LABEL.match(line))}
    jumps = [(labels.get(match[1], i), i) for i, line in enumerate(lines) if (match := JUMP.match(line))]
    loops = [(head, end) for head, end in jumps if head < end]
    inner = [
        loop
        for loop in loops
        if not any(other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)
    ]
    return [Loop(tuple(line for line in lines[head : end + 1] if not LABEL.match(line))) for head, end in inner]


def main_loop(assembly: str) -> Loop | None:
    """The loop that does the work: of those that are mostly multiply-adds and loads, the one with the most, those first
    that take scalars from lanes, which no transform does; None where there is none.
    """
    loops = [loop for loop in innermost_loops(assembly) if loop.fmas >= MAIN_SHARE * len(loop.body)]
    return max(loops, key=lambda loop: (loop.by_element > 0, loop.fmas), default=None)


def main_loop_of(kernel: Kernel, mod: IRModule, tile, target: Target) -> Loop | None:
    """That of an unscheduled function 'main' that holds the kernel, with a tile."""
    sch = Schedule(mod)
    kernel.schedule(sch, tile, target)
    return main_loop(codegen.assembly(codegen.build_alone(sch.mod, target)))


def require(target: Target) -> None:
    """Raises UserError where nothing here can be said of the target's core."""
    if not target.mca or target.arch != "aarch64":
        raise UserError(
            f"there is no model of the pipes of '{target.name}' here; targets with one are Arm's, such as cortex-a76"
        )
    command()


@lru_cache(maxsize=1)
def command() -> str:
    """The llvm-mca to call. Raises UserError where none is new enough."""
    for name in COMMANDS:
        if (path := shutil.which(name)) and version(path) >= LEAST_VERSION:
            return path
    raise UserError(f"llvm-mca {LEAST_VERSION} or later is not here: 'apt-get install llvm-{LEAST_VERSION}' brings it")


def version(path: str) -> int:
    """Major version of an llvm-mca."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    return int(match[1]) if (match := re.search(r"LLVM version (\d+)", said)) else 0


@lru_cache(maxsize=1 << 14)
def simulated(body: tuple[str, ...], cpu: str, name: str) -> float:
    """Cycles of one step of a loop."""
    arguments = [
        "-mtriple=aarch64",
        f"-mcpu={cpu}",
        f"-iterations={ITERATIONS}",
        "-instruction-info=false",
        "-resource-pressure=false",
    ]
    done = subprocess.run([command(), *arguments], input="\n".join(body) + "\n", capture_output=True, text=True)
    if not (match := CYCLES.search(done.stdout)):
        raise UserError(f"llvm-mca says nothing of a loop for '{name}': {done.stderr.strip().splitlines()[-1:]}")
    return int(match[1]) / ITERATIONS
