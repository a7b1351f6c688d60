"""A product to build and call: what it is, and where its code is kept on disk. Loads nothing of TVM."""

import contextlib
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from subp_contract.distribution import VERSION
from subp_contract.files import user_cache
from tvm_sched.products.problem import Norm, Problem
from tvm_sched.targets import lookup

PRODUCTS = "forward", "input_gradient", "weight_gradient"  # of a Problem, each a module of this package
NORMS = "batch_norm", "batch_norm_backward"  # of a Norm
MOST_TAPS = 25  # of a kernel: all are unrolled
MOST_NUMBERS = 2**31 - 1  # that an index of 32 bits reaches
SUPPORT = Path(__file__).with_name("support.c")  # is linked into each
# What makes code of a product, beside TVM: paths in `tvm_sched`.
SOURCES = "products", "targets", "passes", "codegen.py", "kernels/ranking.py"


@dataclass(frozen=True)
class Product:
    """One of PRODUCTS or NORMS, for one problem, cut for so many threads; where the process may use fewer, these share
    it.
    """

    kind: str
    problem: Problem | Norm
    threads: int

    @property
    def path(self) -> Path:
        """Of its library, where it has been built: named by all that the code depends on."""
        parts = self.kind, self.problem.key(), machine(self.threads)
        return folder() / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.so"


def why_not(problem: Problem) -> str | None:
    """Why there are no products for a problem; None where there are."""
    p = problem
    if p.outputs % p.groups or p.channels % p.groups or (p.outputs // p.groups) % p.n:
        return f"blocks of {p.n} do not divide the outputs of a group"
    if p.taps > MOST_TAPS:
        return f"kernels of more than {MOST_TAPS} positions are not unrolled"
    if min(p.output) < 1:
        return "the kernel is larger than the image"
    sizes = (
        p.batch * p.channels * p.image[0] * p.image[1],
        p.batch * p.outputs * p.output[0] * p.output[1],
        p.outputs * p.inputs * p.taps,
    )
    if max(sizes) * 2 > MOST_NUMBERS:
        return "it holds more numbers than indices of 32 bits reach"
    return None


@cache
def machine(threads: int) -> str:
    """A name for this CPU with so many threads, these sources and TVM: what code is made for, and measured with."""
    cpu = lookup.cpu_name(), sorted(lookup.cpu_flags()), lookup.host_caches()
    parts = (*cpu, threads, version("apache-tvm"), _sources())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def folder() -> Path:
    """Where built products are kept between processes."""
    return user_cache() / "products"


def _sources() -> str:
    home = Path(__file__).parents[1]
    with contextlib.suppress(OSError):
        found = [home / name for name in SOURCES]
        files = sorted(each for path in found for each in ([path] if path.is_file() else path.rglob("*.py")))
        return hashlib.sha256(b"".join(path.read_bytes() for path in (*files, SUPPORT))).hexdigest()
    return VERSION
