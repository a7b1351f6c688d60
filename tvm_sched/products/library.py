"""The products, and the batch norms between them, as functions to call: built once for a problem, kept in memory and on
disk.
"""

import contextlib
import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import tvm

from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder
from tvm_sched import codegen, runtime, targets
from tvm_sched.deploy import toolchain
from tvm_sched.products import batch_norm, forward, input_gradient, tiles, weight_gradient
from tvm_sched.products.batch_norm import Norm
from tvm_sched.products.problem import Problem
from tvm_sched.targets import Target

PRODUCTS: dict[str, tuple[Callable, Callable]] = {
    forward.NAME: (forward.build, tiles.forward),
    input_gradient.NAME: (input_gradient.build, tiles.input_gradient),
    weight_gradient.NAME: (weight_gradient.build, tiles.weight_gradient),
}
NORMS: dict[str, tuple[Callable, Callable]] = {
    batch_norm.FORWARD: (batch_norm.forward, lambda *_: None),
    batch_norm.BACKWARD: (batch_norm.backward, lambda *_: None),
}
MOST_TAPS = 25  # of a kernel: all are unrolled
MOST_NUMBERS = 2**31 - 1  # that an index of 32 bits reaches
TEAM = Path(__file__).with_name("team.c")
_building = threading.Lock()


@dataclass(frozen=True)
class Product:
    """One of PRODUCTS or NORMS, for one problem, cut for so many threads; where the process may use fewer, these share
    it.
    """

    kind: str
    problem: Problem | Norm
    threads: int

    def __call__(self, *arguments) -> None:
        """Arrays, each flat and contiguous, and the number of kept blocks, as the product's module says."""
        runtime.set_threads(min(self.threads, runtime.most_threads()))
        self.function(*arguments)

    @property
    def function(self) -> Callable:
        """TVM's."""
        return _function(self)


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
def host(threads: int) -> Target:
    """This machine, to so many threads."""
    return replace(targets.get("host"), cores=threads)


@cache
def _function(product: Product) -> Callable:
    with _building:
        target = host(product.threads)
        build, tile_of = (PRODUCTS | NORMS)[product.kind]
        tile = tile_of(product.problem, target, product.threads)
        path = folder() / f"{_digest(product, tile, target)}.so"
        if not path.exists():
            module = build(product.problem, tile, target, product.threads)
            executable = codegen.build(module, target)
            if not _kept(executable, target, path):
                return executable[product.kind]
        function = tvm.runtime.load_module(str(path))[product.kind]
        ctypes.CDLL(str(path)).subp_take_team(product.threads)  # else TVM's own threads compute it
        return function


def machine(threads: int) -> str:
    """A name for this CPU with so many threads, these sources and TVM: what measurements hold for."""
    parts = (targets.cpu_model(), host(threads), version("apache-tvm"), _sources())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def folder() -> Path:
    """Where built products are kept between processes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subp" / "products"


def _kept(executable, target: Target, path: Path) -> bool:
    """Whether the code lies at `path` now: not without a linker or where nothing can be written."""
    try:
        compiler = toolchain.linker(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path) as made:
            library = str(made / path.name)

            def link(output: str, files: list[str], **_) -> None:
                toolchain.link(output, [*files, str(TEAM)], compiler, manifest=b"")

            executable.export_library(library, fcompile=link, workspace_dir=str(made))
            os.replace(library, path)
    except (UserError, OSError):
        return False
    return True


def _digest(product: Product, tile: tiles.Tile | None, target: Target) -> str:
    """Of all that the code depends on."""
    parts = (product.kind, product.problem.key(), tile, product.threads, target, version("apache-tvm"), _sources())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def _sources() -> str:
    """Of this package and of what makes code of it."""
    with contextlib.suppress(OSError):
        files = [*sorted(Path(__file__).parent.glob("*.py")), TEAM, Path(codegen.__file__)]
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return version("subp")
