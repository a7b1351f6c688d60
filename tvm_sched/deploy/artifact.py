"""A compiled network: callable on NumPy arrays, saved as one shared library with its manifest inside.

The manifest is JSON: `format`, `target`, `arch`, `cpu`, `cpu_flags`, `threads`, `dense`, `prepare` (the function
that computes what 'main' takes beside its input, or null), `parts` (equal parts of the batch, which 'main' takes
one at a time), `input` and `output` (shape, dtype), `layers` (the rows of
`explain`), `memory` (bytes of `workspace`, `weights` and what is `prepared` of them), `versions`, `check` (a seed for
the input and PyTorch's output), and what the user adds (`classes`, `preprocessing`).
"""

import json
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subp_contract.errors import UserError
from tvm_sched import runtime
from tvm_sched.deploy import huge_pages, toolchain
from tvm_sched.planning.explain import LayerChoice, table
from tvm_sched.quiet import quiet
from tvm_sched.targets import Target, cpu_flags
from tvm_sched.targets.sizes import FLOAT

if TYPE_CHECKING:
    from rich.table import Table

    from tvm_sched.codegen import Memory
    from tvm_sched.frontend.torch_export import Imported
    from tvm_sched.pipeline import Lowered

FORMAT = 3
ALIGNMENT = 64  # bytes, of buffers that compiled code takes
TOLERANCE = 1e-3  # largest absolute error of outputs of unit scale
CHECK_OUTPUTS = 1000  # numbers of the expected output that the manifest holds, at the most


@dataclass(frozen=True)
class Cost:
    """What a network takes, as its artifact tells."""

    dense_macs: int  # multiply-adds of all layers, the whole batch
    kept_macs: int  # those of the blocks that are stored
    stored_bytes: int  # of these blocks' weights
    workspace_bytes: int  # activations, as planned statically
    weights_bytes: int  # constants, and what is prepared of them when the network is loaded


class Artifact:
    """A network compiled for one target, in memory or loaded from a file. Calls share buffers: one Python thread at a
    time, which need not be the same. Each runs on `threads` threads, whatever others of this process run on.
    """

    def __init__(self, executable: Any, manifest: dict, target: Target | None = None, threads: int | None = None):
        """`executable`: what TVM built or loaded; `target`: the Target, where it was built in this process and so can
        be saved; `threads`: by default those that it was compiled for, as far as this process may use them.
        """
        self.manifest = manifest
        self.threads = threads or min(manifest["threads"], runtime.most_threads())
        self._executable, self._target = executable, target
        self._main: Any = None  # 'main' of the machine that the first call makes, and its input's buffer
        self._input: Any = None
        self._instrument: Callable | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """The network's output for `x`, whose shape and dtype must be those of `manifest['input']`. Raises UserError
        otherwise.
        """
        want = self.manifest["input"]
        if not isinstance(x, np.ndarray) or list(x.shape) != want["shape"] or x.dtype != want["dtype"]:
            got = f"{list(x.shape)} of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
            raise UserError(f"the input must be a NumPy array of {want['shape']} of {want['dtype']}, not {got}")
        runtime.set_threads(self.threads)
        if self._main is None:
            self._start()
        made = []
        for part in x.reshape(self.manifest["parts"], *self._input.shape):
            np.copyto(self._input, part)
            output = self._main()
            made.append([self._own(output)] if hasattr(output, "numpy") else [self._own(each) for each in output])
        outputs = [np.concatenate(each) if len(made) > 1 else each[0] for each in zip(*made, strict=True)]
        return outputs[0] if hasattr(output, "numpy") else tuple(outputs)

    def _own(self, output: Any) -> np.ndarray:
        """An output as an array. Each call computes into memory of its own, so it is a view, unless the network gives
        back its input.
        """
        view = np.from_dlpack(output)
        return view if view.flags.writeable and not np.may_share_memory(view, self._input) else view.copy()

    def instrumented(self, callback: Callable[..., int]) -> "Artifact":
        """Another that runs the same code, but calls `callback(function, name, before, result, *arguments)` before and
        after each step of 'main'; it must return 0.
        """
        other = Artifact(self._executable, self.manifest, threads=self.threads)
        other._instrument = callback
        return other

    def _start(self) -> None:
        """Makes the machine that runs the network and the input's buffer, and has its memory in large pages."""
        import tvm
        from tvm import relax

        require_this_machine(self.manifest, "the network")
        machine = relax.VirtualMachine(self._executable, tvm.cpu())
        prepared = machine[self.manifest["prepare"]]() if self.manifest["prepare"] else ()
        shape = list(self.manifest["input"]["shape"])
        shape[:1] = [images // self.manifest["parts"] for images in shape[:1]]
        self._input = aligned(shape, self.manifest["input"]["dtype"])
        self._main = partial(machine["main"], tvm.runtime.from_dlpack(self._input), *prepared)
        self._main()  # takes its memory
        if sum(self.manifest["memory"].values()) >= huge_pages.WORTH:
            huge_pages.collapse()
        if self._instrument:
            machine.set_instrument(self._instrument)

    def check(self) -> float:
        """Largest absolute difference from PyTorch's output on the manifest's check input."""
        want = self.manifest["check"]
        output = self(check_input(self.manifest["input"]["shape"], want["seed"]))
        first = output if isinstance(output, np.ndarray) else output[0]
        return float(np.abs(first.reshape(-1)[:CHECK_OUTPUTS] - np.array(want["output"], "float32")).max())

    def explain(self) -> list[LayerChoice]:
        """What was chosen for each layer, and why."""
        return [LayerChoice(**row) for row in self.manifest["layers"]]

    def schedules(self) -> Counter[str]:
        """How many of the kernels have their schedule from where: 'record', 'record of 1 thread', 'estimate',
        'default'. Layers that are computed by the same function have one kernel.
        """
        kernels = {layer.function: layer.schedule for layer in self.explain() if layer.function}
        return Counter(schedule.partition(":")[0] for schedule in kernels.values())

    def cost(self) -> Cost:
        """Multiply-adds and bytes that the network takes."""
        layers, memory = self.explain(), self.manifest["memory"]
        return Cost(
            dense_macs=sum(layer.macs for layer in layers),
            kept_macs=sum(layer.kept_macs for layer in layers),
            stored_bytes=FLOAT * sum(layer.weights for layer in layers),
            workspace_bytes=memory["workspace"],
            weights_bytes=memory["weights"] + memory["prepared"],
        )

    def explain_table(self) -> "Table":
        """The same as a `rich` table."""
        return table(self.explain())

    def save(self, path: str | Path, cc: str | None = None) -> None:
        """Writes a shared library (any name), or an archive of object files (`.tar`: nothing is linked). An existing
        file is replaced only by a whole one. `cc`: the command of a compiler to link with, else one is found. Raises
        UserError where there is none, or for an artifact that was itself loaded from a file.
        """
        path = Path(path)
        if self._target is None:
            raise UserError("this artifact was loaded from a file; copy that file instead of saving it again")
        temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        try:
            with quiet():
                link = None if path.suffix == ".tar" else _Linker(self._target, self.manifest, cc)
                self._executable.export_library(str(temporary), fcompile=link)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class _Linker:
    """What TVM calls to link its object files, the manifest going in with them."""

    object_format = "o"  # TVM asks for it

    def __init__(self, target: Target, manifest: dict, cc: str | None):
        self.compiler, self.manifest = toolchain.linker(target, cc), json.dumps(manifest).encode()

    def __call__(self, output: str, files: list[str], **_: Any) -> None:
        toolchain.link(output, files, self.compiler, self.manifest)


def aligned(shape: list[int], dtype: str) -> np.ndarray:
    """An array of zeros that begins where compiled code may expect it to."""
    size = prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, "uint8")
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def load(path: str | Path, threads: int | None = None) -> Artifact:
    """The artifact in `path`, to run on `threads` threads (its own number, as far as this machine has them).

    Raises UserError for a file that is missing, damaged, foreign, or made for another CPU, and for more threads than
    this process may use.
    """
    import tvm  # noqa: F401, makes the loader of its executables known
    import tvm_ffi

    if threads is not None:
        runtime.require_threads(threads)
    manifest, arch = read_manifest(path)
    require_this_machine(manifest | {"arch": arch}, str(path))
    toolchain.require_whole(Path(path))
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            # Of a name that it knows the system's loader gives what it has, though the file was replaced.
            alias = Path(folder, "net.so")
            alias.symlink_to(Path(path).resolve())
            executable = tvm_ffi.load_module(alias)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be loaded: {str(error).strip().splitlines()[-1]}") from None
    return Artifact(executable, manifest, threads=threads)


def read_manifest(path: str | Path) -> tuple[dict, str]:
    """(manifest, architecture) of a compiled network, which is not run. Raises UserError if there is none."""
    raw, arch = toolchain.read_manifest(Path(path))
    try:
        manifest = json.loads(raw)
    except ValueError:
        raise UserError(f"the manifest in {path} is damaged; compile the network again") from None
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path} has a manifest of format {manifest.get('format')}, this version reads {FORMAT}; compile the "
            "network again"
        )
    return manifest, arch


def require_this_machine(manifest: dict, what: str) -> None:
    """Raises UserError unless this machine's CPU runs the manifest's code."""
    if manifest["arch"] != platform.machine():
        raise UserError(
            f"{what} is compiled for {manifest['arch']} ({manifest['target']}), and this machine is "
            f"{platform.machine()}"
        )
    if missing := sorted(set(manifest["cpu_flags"]) - cpu_flags()):
        raise UserError(
            f"{what} is compiled for {manifest['target']}, and this machine's CPU lacks {', '.join(missing)}"
        )


def check_input(shape: list[int], seed: int) -> np.ndarray:
    """The check's input: standard normal numbers of NumPy's default generator."""
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def error_limit(expected: np.ndarray) -> float:
    """The largest absolute error of outputs that shall be `expected`: TOLERANCE, times the largest of them where that
    is more than 1.
    """
    return TOLERANCE * max(1.0, float(np.abs(expected).max()))


def make_manifest(
    target: Target,
    imported: "Imported",
    lowered: "Lowered",
    memory: "Memory",
    reference: Callable[[np.ndarray], np.ndarray | tuple[np.ndarray, ...]],
    *,
    threads: int,
    dense: bool,
) -> dict:
    """The manifest of a network just compiled, a pipeline's Lowered; `reference` computes PyTorch's output for a NumPy
    input.
    """
    import torch
    import tvm

    seed = 0
    expected = reference(check_input(list(imported.input_shape), seed))
    first = expected if isinstance(expected, np.ndarray) else expected[0]
    return {
        "format": FORMAT,
        "target": target.name,
        "arch": target.arch,
        "cpu": target.cpu,
        "cpu_flags": list(target.cpu_flags),
        "threads": threads,
        "dense": dense,
        "prepare": lowered.prepare,
        "parts": imported.parts,
        "input": {"shape": list(imported.input_shape), "dtype": imported.input_dtype},
        "output": {"shape": list(first.shape), "dtype": str(first.dtype)},
        "layers": [asdict(choice) for choice in lowered.choices],
        "memory": asdict(memory),
        "versions": {"tvm": tvm.__version__, "torch": torch.__version__},
        "check": {"seed": seed, "output": first.reshape(-1)[:CHECK_OUTPUTS].tolist()},
    }
