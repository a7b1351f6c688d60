"""A compiled network: callable with what its module takes, saved as one shared library with its manifest inside
(`deploy/manifest.py`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subp_contract import files
from subp_contract.arguments import path_of, require_kind
from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder
from tvm_sched import runtime, runtime_library
from tvm_sched.deploy import huge_pages, objects, toolchain
from tvm_sched.deploy.entry import Entry, aligned, as_tvm
from tvm_sched.deploy.manifest import (
    each_shape,
    expected_outputs,
    first_numbers,
    largest_error,
    limits,
    read_manifest,
    require_this_machine,
)
from tvm_sched.planning.explain import TIMED, LayerChoice, table
from tvm_sched.quiet import quiet
from tvm_sched.signature import Signature, TensorSpec, check_inputs, unflatten
from tvm_sched.targets import Target
from tvm_sched.targets.sizes import NUMBER_BYTES

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Cost:
    """What a network takes, as its artifact tells."""

    dense_macs: int  # multiply-adds of all layers, the whole batch
    kept_macs: int  # those of the blocks that are stored
    stored_bytes: int  # of these blocks' weights
    workspace_bytes: int  # activations, as planned statically
    weights_bytes: int  # constants, and what is prepared of them when the network is loaded


class Artifact:
    """A network compiled for one target, in memory or loaded from a file. Calls share buffers: any Python thread may
    call, and waits for those that do. Each call runs on `threads` threads, whatever others of this process run on
    (docs/trust.md says how after a fork). Pickled and copied it is the path of its file, and loaded anew.
    """

    def __init__(
        self,
        executable: Any,
        manifest: dict,
        target: Target | None = None,
        threads: int | None = None,
        path: Path | None = None,
    ):
        """`executable`: what TVM built or loaded; `target`: the Target, where it was built in this process and so can
        be saved; `threads`: by default those that it was compiled for, as far as this process may use them; `path`: the
        file that it is in.
        """
        self.manifest = manifest
        self.shapes = [Shape.of(each) for each in each_shape(manifest)]
        self.threads = threads or min(manifest["threads"], runtime.most_threads())
        self._executable, self._target, self._path = executable, target, path
        self._lock = runtime.call_lock()
        self._plain = self.signature.is_plain
        self._only = self.shapes[0] if len(self.shapes) == 1 else None
        self._machine: Any = None  # which the first call makes, and what 'prepare' gives
        self._prepared: Sequence = ()
        self._tell: Callable | None = None
        self._huge_pages = sum(manifest["memory"].values()) >= huge_pages.WORTH

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns for these arguments, which are those that it takes, in its structure: NumPy arrays or
        torch tensors on the CPU, of the shapes and dtypes of `signature.inputs`. The outputs are torch tensors if one
        of the inputs is; else arrays, and then tuples and lists are without the places that hold None. Raises UserError
        otherwise.
        """
        given = args if self._plain and len(args) == 1 and not kwargs else self.signature.flatten(args, kwargs)
        shape = self._only or self.shape_of(given)
        made, structure = self._run(shape, given), shape.signature.output_structure
        return unflatten(structure.of_arrays if type(made[0]) is np.ndarray else structure, made)

    def __repr__(self) -> str:
        inputs = "; ".join(", ".join(map(str, shape.signature.inputs)) for shape in self.shapes)
        layers = self.manifest["layers"]
        sparse = sum(layer["density"] < 1 for layer in layers)
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        about = f"{self.manifest['target']}, {self.manifest['precision']}, {threads}"
        return f"<Artifact for {about}: {inputs}; {sparse} of {len(layers)} layers block-sparse>"

    def run_flat(self, inputs: Sequence) -> list:
        """The output tensors in the order of `signature.outputs` for the input tensors in the order of
        `signature.inputs`, as a call takes and gives them.
        """
        require_kind("the inputs", inputs, Iterable, "a list of tensors")
        return self._run(self._only or self.shape_of(inputs), inputs)

    @property
    def signature(self) -> Signature:
        """What the network takes and gives; of the first of several shapes."""
        return self.shapes[0].signature

    def shape_of(self, inputs: Sequence) -> "Shape":
        """Which of the network's shapes these inputs have. Raises UserError where it has none of theirs."""
        given = [tuple(getattr(each, "shape", ())) for each in inputs]
        for shape in self.shapes:
            if [spec.shape for spec in shape.signature.inputs] == given:
                return shape
        known = [" and ".join(str(list(spec.shape)) for spec in each.signature.inputs) for each in self.shapes]
        raise UserError(
            f"the network was not compiled for inputs of {' and '.join(str(list(each)) for each in given)}, but for "
            f"{', '.join(known)}"
        )

    def _run(self, shape: "Shape", inputs: Sequence) -> list:
        """The outputs for inputs of that shape."""
        with self._lock:
            runtime.set_threads(self.threads)
            return (shape.entry or self._enter(shape))(inputs)

    def __reduce__(self) -> tuple:
        """By its file, as another process may have it: (what unpickles, its arguments). Raises UserError where there is
        none.
        """
        if self._path is None:
            raise UserError("an artifact that is in no file cannot be pickled or copied: save it, and load it again")
        return _loaded_again, (self._path, self.threads, self.manifest)

    def timed(self, tell: Callable[[np.ndarray], Any]) -> "Artifact":
        """Another that runs the same code, but calls `tell(times)` after each run of 'main', which is one for each of
        the batch's parts. times: [points] nanoseconds, of each of the manifest's lists of `steps` in turn that before
        each step and that after the last.
        """
        other = Artifact(self._executable, self.manifest, threads=self.threads)
        other._tell = tell
        return other

    def for_few_calls(self) -> "Artifact":
        """Another that runs the same code in pages of common size: huge ones take most of a second to make."""
        other = Artifact(self._executable, self.manifest, threads=self.threads)
        other._huge_pages = False
        return other

    def _enter(self, shape: "Shape") -> Entry:
        """Makes the function of that shape ready, and the machine that runs all; has its memory in large pages."""
        if self._machine is None:
            self._start()
        prepared = self._prepared if shape.prepared is None else [self._prepared[place] for place in shape.prepared]
        main = self._machine[shape.main] if self._tell is None else self._timed_main(shape, self._tell)
        entry = shape.entry = Entry(main, prepared, shape.signature.inputs, shape.parts)
        if self._huge_pages:
            huge_pages.collapse()
        return entry

    def _timed_main(self, shape: "Shape", tell: Callable[[np.ndarray], Any]) -> Callable:
        """The function of that shape, which tells its times."""
        function, stamps = self._machine[shape.main + TIMED], aligned((shape.points, 2), np.dtype("int64"))
        times = as_tvm(stamps)

        def run(*args: Any) -> Any:
            made = function(*args, times)
            tell(stamps @ (10**9, 1))
            return made

        return run

    def _start(self) -> None:
        """Makes the machine."""
        require_this_machine(self.manifest, "the network")
        self._machine = runtime_library.virtual_machine(self._executable)
        if prepare := self.manifest["prepare"]:
            self._prepared = self._machine[prepare]()

    def check(self) -> float:
        """Largest absolute difference from PyTorch's outputs on the manifest's check inputs."""
        return max(error for _, error, _ in self.errors())

    def errors(self) -> list[tuple[TensorSpec, float, float]]:
        """(output, its largest absolute difference there, how large that may be) of each output of each shape."""
        found, network = [], self.for_few_calls()
        for manifest, shape in zip(each_shape(self.manifest), self.shapes, strict=True):
            outputs = network.run_flat(check_inputs(shape.signature.inputs, manifest["check"]["seed"]))
            rows = zip(outputs, expected_outputs(manifest), limits(manifest), strict=True)
            found += [
                (spec, largest_error(first_numbers(output), numbers), limit) for output, (spec, numbers), limit in rows
            ]
        return found

    def explain(self) -> list[LayerChoice]:
        """What was chosen for each layer, and why."""
        return [LayerChoice(**row) for row in self.manifest["layers"]]

    def schedules(self) -> Counter[str]:
        """How many of the kernels have their schedule from where: 'record', 'estimate', 'record for float32 weights',
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
            stored_bytes=sum(NUMBER_BYTES[layer.weights_dtype] * layer.weights for layer in layers),
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
        path = path_of("the file to save to", path)
        if self._target is None:
            raise UserError("this artifact was loaded from a file; copy that file instead of saving it again")
        if path.is_dir() or not path.parent.is_dir():
            what = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise UserError(f"{what}: save to a file, such as net.so")
        with scratch_folder(path) as folder, quiet():
            link = objects.archive if path.suffix == ".tar" else _Linker(self._target, self.manifest, cc)
            objects.export(self._executable, folder / path.name, link)
            files.put(folder / path.name, path)
        self._path = None if path.suffix == ".tar" else path.resolve()


@dataclass
class Shape:
    """What a network is for one of its shapes."""

    signature: Signature
    main: str  # the function
    points: int  # in time, that its timed twin tells
    prepared: list[int] | None  # which of the results of 'prepare' it takes; all
    parts: int
    entry: Entry | None = None  # which the first call makes

    @classmethod
    def of(cls, manifest: dict) -> "Shape":
        """From the manifest of a shape."""
        points = sum(len(run) + 1 for run in manifest["steps"])
        return cls(Signature.from_json(manifest), manifest["main"], points, manifest["prepared"], manifest["parts"])


class _Linker:
    """What TVM calls to link its object files, the manifest going in with them."""

    object_format = "o"  # TVM asks for it

    def __init__(self, target: Target, manifest: dict, cc: str | None):
        self.compiler, self.manifest = toolchain.linker(target, cc), json.dumps(manifest).encode()

    def __call__(self, output: str, files: list[str], **_: Any) -> None:
        toolchain.link(output, files, self.compiler, self.manifest)


def load(path: str | Path, threads: int | None = None) -> Artifact:
    """The artifact in `path`, to run on `threads` threads (its own number, as far as this machine has them).

    Raises UserError for a file that is missing, damaged, foreign, or made for another CPU, and for more threads than
    this process may use.
    """
    path = path_of("the file to load", path)
    if threads is not None:
        runtime.require_threads(threads)
    manifest, arch = read_manifest(path)
    require_this_machine(manifest | {"arch": arch}, str(path))
    toolchain.require_whole(Path(path))
    try:
        with quiet(), scratch_folder() as folder:
            # Of a name that it knows the system's loader gives what it has, though the file was replaced.
            alias = folder / "net.so"
            alias.symlink_to(Path(path).resolve())
            executable = runtime_library.ffi().load_module(alias, keep_module_alive=False)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be loaded: {str(error).strip().splitlines()[-1]}") from None
    return Artifact(executable, manifest, threads=threads, path=Path(path).resolve())


def _loaded_again(path: Path, threads: int, manifest: dict) -> Artifact:
    """The artifact that was pickled by its path. Raises UserError where the file holds another network by now."""
    artifact = load(path, min(threads, runtime.most_threads()))
    if json.dumps(artifact.manifest) != json.dumps(manifest):
        raise UserError(f"{path} holds another network than when its artifact was pickled: load it anew")
    return artifact
