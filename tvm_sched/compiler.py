"""`compile`: from a PyTorch network to an artifact."""

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subp_contract.arguments import path_of, require_kind, whole_number
from subp_contract.errors import CheckWarning, UserError
from tvm_sched import runtime, targets
from tvm_sched.quiet import quiet

if TYPE_CHECKING:
    from tvm_sched.deploy.artifact import Artifact
    from tvm_sched.frontend.sources import Source
    from tvm_sched.pipeline import Built, Compilation
    from tvm_sched.precision import Precision
    from tvm_sched.records.recorded import KnownRecords
    from tvm_sched.verification.check import Verdict

EXPORTED, CHECKED = "export", "check"  # steps before the phases of the pipeline and after them
SHIPPED = Path(__file__).parent / "tuning_logs"  # in a checkout a link to the folder at top level


def compile(
    module: "Source",
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    target: str | targets.Target = "host",
    threads: int | None = None,
    records: str | Path | None = None,
    dense: bool = False,
    dump: str | Path | None = None,
    check: bool = True,
    winograd: bool = True,
    precision: str = "float32",
    calibration: Iterable | None = None,
    weights: str = "float32",
    shapes: Sequence | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> "Artifact":
    """Compiles a network for one CPU.

    module:         nn.Module (traced in eval mode), torch.export.ExportedProgram, as `quantize` returns one, or an
                    ONNX file NAME.onnx; its 1xN zeros are found, nothing else is needed
    example_inputs: torch.Tensor, or a tuple of the positional arguments, of the shapes and dtypes that the artifact
                    will take: tensors, and pytrees of tensors and of constants, which the artifact is then made for;
                    not needed for an ExportedProgram, whose open batch they fix, nor for an ONNX file, whose open
                    batch is then 1
    example_kwargs: the keyword arguments
    target:         name from `targets.names()`, a file NAME.json, or a Target
    threads:        the schedules share their work among so many (all cores of a host by default), and the artifact
                    runs on them
    records:        folder of tuning records; by default those shipped for the target, if any; used are those made on
                    as many threads
    dense:          ignore the zeros, as a baseline
    dump:           folder for the module after each phase of the pipeline, to be read
    check:          hold the compiled network against PyTorch (an ONNX file's against ONNX Runtime, or ONNX's reference
                    evaluator), on the example and on random inputs
    winograd:       whether layers may run by Winograd's algorithm; those whose rounding the outputs would show, which
                    is more than direct convolution's, do not in any case
    precision:      of the numbers inside the network (docs/precision.md): 'float32', 'float16' for an ARM CPU with
                    fp16, 'bfloat16' for an x86 CPU with AVX512-BF16, 'int8', or 'auto' for what of float32, float16
                    and int8 is the fastest by estimate, layer by layer where that is worth it; `manifest["decision"]`
                    tells
    calibration:    for precision 'int8' of a network that is not quantised yet, and for 'auto' to have int8 among its
                    choices: as `quantize` takes it
    weights:        "float16" or "bfloat16": float32 networks store weights in half the bytes, layer by layer where
                    that is not slower, and widen them as they are read (docs/precision.md)
    shapes:         of the input tensor, one or several, each with its own code, all with the same weights, which are
                    stored once where their layout is the same; for several input tensors each is a tuple of their
                    shapes; by default the example's only
    progress:       called with (steps done, steps in all, the step that is behind); a network that is built again, for
                    another shape or to round less, goes back

    Returns an Artifact; where its schedules come from is told by `Artifact.schedules`, and what the check found by
    `manifest["check"]`. Warns with a CheckWarning where the weights make the check blind. Raises UserError for a
    network or a target that cannot be compiled, and CheckFailed, which is one, where the outcome would be wrong.
    """
    from torch.export import ExportedProgram

    from tvm_sched import pipeline
    from tvm_sched import precision as precisions
    from tvm_sched.deploy.artifact import Artifact
    from tvm_sched.deploy.manifest import make_manifest, of_shapes, relative_of
    from tvm_sched.dump import Dump
    from tvm_sched.frontend import torch_export
    from tvm_sched.frontend.calibration import is_quantised
    from tvm_sched.frontend.shapes import examples, of_each_input
    from tvm_sched.frontend.sources import network_of
    from tvm_sched.pipeline import Compilation
    from tvm_sched.planning.narrow_weights import require_known
    from tvm_sched.planning.plan import FREE, NO_WINOGRAD, Restrictions
    from tvm_sched.verification.check import UNCHECKED, Check, check_joined

    require_known(weights, precision)
    target = targets.get(target)
    numbers = precisions.of(precision, target)
    target = replace(target, cores=threads_of(target, threads))
    observe = None if dump is None else Dump(dump)
    restrictions = FREE if winograd else Restrictions(NO_WINOGRAD)
    known = open_records(records, target)

    if calibration is not None:
        require_kind("calibration", calibration, Iterable, "batches of the network's inputs, such as a list")
    if shapes is not None:
        require_kind("shapes", shapes, Sequence, "a list of shapes")
    examples_of_use = None if calibration is None else list(calibration)  # for each of several shapes anew
    decision = ""
    if precision == precisions.AUTO:
        with quiet(), older_objects_uncollected():
            undecided = Compilation(target, known, dense, None, restrictions)
            inputs_of = (example_inputs, example_kwargs, shapes)
            numbers, decision = decide(module, examples_of_use, inputs_of, undecided)
    target = precisions.with_flags(target, numbers)
    reached = partial(report, progress) if progress else _unheard
    compilation = Compilation(target, known, dense, observe, restrictions, numbers, weights=weights, reached=reached)

    def compiled(inputs: Any, kwargs: Mapping[str, Any] | None) -> tuple["Built", "Verdict", dict]:
        """The network as code for one example, what its check found, and its manifest."""
        network, inputs = network_of(module, inputs)
        told_of_numbers = [decision] if decision else []
        if numbers.before:
            given, network = network, numbers.before(network, examples_of_use, inputs, kwargs)
            told_of_numbers += [numbers.note] if numbers.note and network is not given else []
        if isinstance(network, ExportedProgram):
            network = torch_export.fixed(network, inputs, kwargs)
        imported = torch_export.in_parts(network, inputs, kwargs, target.l2_bytes)
        reached(EXPORTED)
        against_torch = Check.of(imported, network, inputs, kwargs)
        ranged = against_torch.in_range(compilation)
        if check:
            built, verdict = against_torch.built(ranged)
        else:
            built, verdict = pipeline.build_network(imported, ranged), UNCHECKED
        reached(CHECKED)
        told = against_torch.told(verdict, relative_of(numbers.word, built.lowered.choices))
        word = "int8" if is_quantised(imported.program) else numbers.word
        words = {"precision": word, "weights": weights, "decision": "; ".join(told_of_numbers)}
        return built, verdict, make_manifest(target, against_torch.imported, built, check=told, dense=dense, **words)

    with quiet(), older_objects_uncollected():
        if shapes is None:
            built, verdict, manifest = compiled(example_inputs, example_kwargs)
            executable, blind = built.executable, verdict.blind
        else:
            network, example = network_of(module, example_inputs, of_each_input(shapes[0]) if shapes else None)
            each = [compiled(*one) for one in examples(network, example, example_kwargs, shapes)]
            executable, joined, memory, steps = pipeline.build_shapes([built for built, *_ in each], compilation)
            manifest = of_shapes([own for *_, own in each], joined, memory, steps)
            blind = next((verdict.blind for _, verdict, _ in each if verdict.blind), "")
    if known is not None and records is not None:  # of shipped ones a user has none to lose
        known.tell_changed()
    if blind:
        warnings.warn(blind, CheckWarning, stacklevel=2)
    artifact = Artifact(executable, manifest, target)
    if check and shapes is not None:
        check_joined(artifact, target)
    return artifact


def steps() -> list[str]:
    """The steps that `compile` tells its `progress` of, in order."""
    from tvm_sched import pipeline

    return [EXPORTED, *pipeline.REPORTED, CHECKED]


def report(progress: Callable[[int, int, str], None], step: str) -> None:
    """Calls `progress` with the number of steps that are behind with this one."""
    names = steps()
    progress(names.index(step) + 1, len(names), step)


def _unheard(step: str) -> None:
    """Where nobody asks for progress."""


def decide(
    module: "Source", calibration: list | None, given: tuple[Any, Any, Sequence | None], undecided: "Compilation"
) -> "tuple[Precision, str]":
    """What a network of precision 'auto' is computed in, and why, for its example (`given`: as `compile` takes inputs,
    keyword arguments and shapes) or the first of several shapes.
    """
    from torch.export import ExportedProgram

    from tvm_sched.frontend import torch_export
    from tvm_sched.frontend.shapes import examples, of_each_input
    from tvm_sched.frontend.sources import network_of
    from tvm_sched.mixed_precision.decision import decide as decided

    inputs, kwargs, shapes = given
    network, inputs = network_of(module, inputs, of_each_input(shapes[0]) if shapes else None)
    if inputs is None and not kwargs and isinstance(network, ExportedProgram) and network.example_inputs:
        inputs, kwargs = network.example_inputs
    example = torch_export.arguments(inputs, kwargs)
    if shapes:
        example = examples(network, *example, shapes)[0]
    made = decided(network, calibration, example, undecided)
    return made.precision, made.told


@contextmanager
def older_objects_uncollected() -> Iterator[None]:
    """Keeps Python's collector of cyclic garbage to objects made while the block runs. Tracing and records make so many
    that it would walk all of PyTorch's and TVM's again and again, a tenth of a compilation's time.
    """
    if gc.get_freeze_count():  # the user has frozen some for good
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def threads_of(target: targets.Target, threads: int | None) -> int:
    """`threads` where given, else the target's cores. Raises UserError below 1, or beyond what this machine has for a
    host.
    """
    if threads is None:
        return min(target.cores, runtime.most_threads()) if target.name == "host" else target.cores
    threads = whole_number("threads", threads)
    if threads < 1 or (target.name == "host" and threads > runtime.most_threads()):
        raise UserError(f"{threads} threads asked for; target '{target.name}' has {target.cores}")
    return threads


def open_records(folder: str | Path | None, target: targets.Target) -> "KnownRecords | None":
    """The records in `folder`; by default those shipped for the target's instruction set, or None."""
    from tvm_sched.records.database import RECORDS
    from tvm_sched.records.fastest import BEST
    from tvm_sched.records.form_times import FORMS

    if folder is not None:
        folder = path_of("records", folder)
    else:
        folder = SHIPPED / target.family
        if not (folder / BEST).is_file():
            return None
    found = [Path(folder) / name for name in (RECORDS, BEST, FORMS) if (Path(folder) / name).is_file()]
    name = found[0].name if found else None
    return _opened(Path(folder), target, name, tuple(file.stat().st_mtime_ns for file in found))


@lru_cache(maxsize=4)
def _opened(folder: Path, target: targets.Target, name: str | None, changed_ns: tuple[int, ...]) -> "KnownRecords":
    """The records in the folder's file of that name, as they were at those times. A process that compiles many networks
    reads them once.
    """
    from tvm_sched.records.database import Records
    from tvm_sched.records.fastest import BEST, BestRecords
    from tvm_sched.verification.recorded_kernels import RecordedKernels

    opened = BestRecords(folder, target) if name == BEST else Records(folder, target)
    if folder.resolve().parent != SHIPPED.resolve():
        opened.wrong = RecordedKernels(target).fault
    return opened
