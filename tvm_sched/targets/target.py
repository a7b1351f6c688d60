"""A CPU as the compiler and the schedules see it."""

from dataclasses import dataclass, replace

from tvm_sched.targets.costs import ZEN4, Costs
from tvm_sched.targets.sizes import FLOAT

FURTHER = 0.2  # of what a second thread takes: each thread more, which is called while the others already wake


@dataclass(frozen=True)
class Target:
    """What TVM must know to generate code, and what a schedule must know to choose its tiles. Sizes in bytes, of what
    one core sees.
    """

    name: str
    family: str  # the named target whose records serve this one: of the same instructions, and much the same core
    triple: str  # LLVM target triple
    cpu: str  # LLVM -mcpu
    lanes: int  # fp32 numbers in a vector register; of another type, where `of_dtype` made it
    registers: int  # vector registers
    fma_per_cycle: int  # vector FMAs started a cycle
    # where an FMA may take a scalar from: 'memory' (AVX-512), a register's 'lane' (NEON), or a whole 'register' (AVX2)
    scalar_operand: str
    features: tuple[str, ...] = ()  # LLVM -mattr
    cpu_flags: tuple[str, ...] = ()  # what the CPU must have, in Linux's words
    fma_latency: int = 4  # cycles
    loads_per_cycle: int = 2
    in_order: bool = False  # a load that is late stops what follows it
    l1_bytes: int = 32 * 1024
    l1_ways: int = 8
    l2_bytes: int = 1024 * 1024
    last_cache_bytes: int = 32 * 1024 * 1024  # of what all cores share before memory
    cores: int = 4
    # of weights that are read between two calls of a kernel: not of the CPU, as its threads are not, but of the network
    network_bytes: int = 0
    number_bytes: int = FLOAT  # of a number that kernels compute with: not of the CPU, but of the function (`of_dtype`)
    mca: str = (
        ""  # LLVM -mcpu whose scheduling model describes the core's pipes, for `machine_model`; empty if none does
    )
    costs: Costs = ZEN4  # what manuals do not state

    @property
    def arch(self) -> str:
        """Architecture of the code: 'x86_64' or 'aarch64'."""
        return self.triple.split("-")[0]

    @property
    def half(self) -> bool:
        """Whether its vectors compute in half precision (ARMv8.2's fp16)."""
        if self.arch != "aarch64":
            return False
        from tvm.target.codegen import llvm_cpu_has_features

        with self.tvm():
            return bool(llvm_cpu_has_features("fullfp16"))

    def of_dtype(self, dtype: str) -> "Target":
        """The CPU as it is to functions whose data are of that type: float16 has twice the lanes."""
        if dtype != "float16" or self.number_bytes != FLOAT:
            return self
        return replace(self, lanes=2 * self.lanes, number_bytes=FLOAT // 2)

    @property
    def barrier_cycles(self) -> float:
        """To set the threads to work and wait for all of them; nothing where there is one thread."""
        return self.costs.barrier_cycles * (1 + FURTHER * (self.cores - 2)) if self.cores > 1 else 0.0

    @property
    def links(self) -> bool:
        """Whether a shared library can be linked for it: on Linux. For macOS there are object files."""
        return "linux" in self.triple

    def tvm(self):
        """The `tvm.target.Target` to generate code for."""
        import tvm

        keys = [
            self.family,
            *(["arm_cpu"] if self.arch == "aarch64" else []),
            "cpu",
        ]  # the family tells one record from another's
        config = {"kind": "llvm", "keys": keys, "mtriple": self.triple, "mcpu": self.cpu, "num-cores": self.cores}
        if self.features:
            config["mattr"] = list(self.features)
        return tvm.target.Target(config)
