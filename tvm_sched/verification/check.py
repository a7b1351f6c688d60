"""The check that every compiled network passes before anybody gets it.

check = Check.of(imported, module, example_inputs, example_kwargs)
built, verdict = check.built(compilation)  # raises CheckFailed
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from subp_contract.errors import CheckFailed
from tvm_sched import pipeline, targets
from tvm_sched.deploy.artifact import Artifact
from tvm_sched.deploy.manifest import each_shape, error_limit, first_numbers, relative_of
from tvm_sched.frontend.torch_export import Imported, arguments, to_array
from tvm_sched.pipeline import Built, Compilation
from tvm_sched.planning.plan import Restrictions
from tvm_sched.signature import Signature, TensorSpec, check_inputs
from tvm_sched.targets import Target
from tvm_sched.verification import diagnosis, ranges, rounding, widening
from tvm_sched.verification.cases import Case, Finding, found
from tvm_sched.verification.comparison import Agreement, blindness
from tvm_sched.verification.host import runner, unable
from tvm_sched.verification.reference import Network, Reference

SEED = 0  # of the random inputs
ROUNDS = 2  # of building again with kernels that round less


@dataclass(frozen=True)
class Verdict:
    """What a check found, for the manifest and for the reader."""

    verified: bool
    error: float | None = None  # largest absolute one of the output of fractions that is nearest to its limit
    tolerance: float | None = None  # that limit
    notes: tuple[str, ...] = ()  # sentences
    blind: str = ""  # one of them: that the network's outputs would hide errors
    allowed: tuple[float, ...] = ()  # errors of each output for the random inputs, where it was pardoned; else 0


UNCHECKED = Verdict(False, notes=("not checked against PyTorch, as asked",))


class Check:
    """A network's cases, and how it is built so that it passes."""

    def __init__(self, imported: Imported, reference: Reference, example: Sequence[np.ndarray] | None = None):
        """`example`: the user's inputs, if there are any."""

        def random(seed: int) -> Case:
            return Case(imported, reference, check_inputs(imported.signature.inputs, seed))

        self.imported = imported
        self.random = random(SEED)  # the manifest tells of it
        # Who has no example of the user's may have given these very numbers.
        given = example is not None and not all(map(np.array_equal, example, self.random.inputs))
        self.cases = (Case(imported, reference, example or ()) if given else random(SEED + 1), self.random)

    @classmethod
    def of(
        cls, imported: Imported, network: Network, example_inputs: Any, example_kwargs: Mapping[str, Any] | None
    ) -> "Check":
        """The check of an imported network on its example, which an exported program may have with it."""
        signature, given = imported.signature, None
        if example_inputs is not None or example_kwargs:
            given = arguments(example_inputs, example_kwargs)
        elif isinstance(network, ExportedProgram):
            given = network.example_inputs
        example = None if given is None else [to_array(tensor) for tensor in signature.flatten(*given)]
        made = cls(imported, Reference(network, signature), example)
        # Shares, for example, are from 0 to 1, and a fraction that is an index is 0 there; a divisor is not 0.
        ranges = [] if example is None else [[bounds(x) for x in example], [(0.0, 1.0)] * len(example)]
        for each in ranges:
            if not made.random.runs:
                imported = replace(imported, signature=within(signature, each))
                made = cls(imported, Reference(network, imported.signature), example)
        return made

    def built(
        self, compilation: Compilation, rounds: int = ROUNDS, aims: Sequence[float] = widening.AIMS
    ) -> tuple[Built, Verdict]:
        """The network as code that agrees with PyTorch, and how well it does. Layers whose rounding the outputs would
        show stay in float32 where the network is in 16 bits, so that the error is one of these `aims`, in turn,
        or get kernels that round less than the fastest, in so many `rounds` at most.

        Raises CheckFailed where it does not agree, with the first operator that departs.
        """
        built = pipeline.build_network(self.imported, compilation)
        if why := unable(compilation.target):
            return built, Verdict(False, notes=(f"not checked against PyTorch: {why}",))
        findings = list(self.findings(built, compilation))
        wrong = [finding for finding in findings if not finding.is_right]
        if not wrong:
            return built, self.verdict(findings)
        worst = max(wrong, key=lambda finding: finding.agreement.excess)
        if (
            compilation.precision.word in widening.NARROW
            and aims
            and (wide := self.wider(built, compilation, worst, aims[0]))
        ):
            return self.built(replace(compilation, wide=wide), rounds, aims[1:])
        finer = self.finer(built, compilation, worst) if rounds else None
        finer = finer or rounding.all_direct(built.lowered.choices, worst.agreement.excess)
        if finer is None:
            raise CheckFailed(diagnosis.sentence(worst, compilation))
        return self.built(replace(compilation, restrictions=finer), max(rounds - 1, 0), aims)

    def in_range(self, compilation: Compilation) -> Compilation:
        """The compilation with layers in float32 whose numbers are too large for the precision that was asked for."""
        if compilation.precision.word != "float16":
            return compilation
        return ranges.in_range(compilation, self.imported.core, [case.first_part for case in self.cases])

    def findings(self, built: Built, compilation: Compilation) -> Iterator[Finding]:
        """Of each output, for each case."""
        run = runner(built, self.imported, compilation)
        word = compilation.precision.word
        relative = relative_of(word, built.lowered.choices)
        for case in self.cases:
            with pipeline.told("what comes out"):
                outputs = run(case.inputs)
            expected = case.expected
            if len(outputs) != len(expected):
                raise CheckFailed(
                    f"the network returns {len(expected)} tensors, and {len(outputs)} where it is exported: that must "
                    "be the same"
                )
            yield from (found(case, output, value, word, relative) for output, value in enumerate(outputs))

    def verdict(self, findings: Sequence[Finding]) -> Verdict:
        """Of findings that are all right."""
        notes = list({each.output: each.pardon for each in findings if each.pardon}.values())
        one, other = self.cases
        alike = all(map(np.array_equal, one.inputs, other.inputs))
        blind = blindness([one.expected, other.expected], alike)
        if blind:
            blind = f"the check against PyTorch says little, as this network's outputs would hide errors: {blind}"
            notes.append(blind)
        fractions = [each.agreement for each in findings if each.agreement.limit]
        nearest = max(fractions, key=lambda agreement: agreement.excess, default=Agreement(0.0, 0.0, ""))
        allowed = tuple(each.allowed for each in findings if each.case is other)
        return Verdict(True, nearest.error, nearest.limit, tuple(notes), blind, allowed)

    def finer(self, built: Built, compilation: Compilation, finding: Finding) -> Restrictions | None:
        """Restrictions by which kernels round less, where that may mend what was found."""
        excess, inputs = finding.agreement.excess, finding.case.first_part
        if not np.isfinite(excess):
            return None
        now, word = compilation.restrictions, compilation.precision.word
        return rounding.finer(built.lowered.choices, now, self.imported.core, inputs, excess, word)

    def wider(self, built: Built, compilation: Compilation, finding: Finding, aim: float) -> dict[str, str] | None:
        """The layers of a network of 16 bits that shall be in float32, where that may mend what was found."""
        excess, inputs = finding.agreement.excess, finding.case.first_part
        word, wide = compilation.precision.word, compilation.wide
        return widening.wider(built.lowered.choices, wide, self.imported.core, inputs, excess, word, aim)

    def told(self, verdict: Verdict, relative: float = 0.0) -> dict:
        """What a manifest says under `check`: the verdict, and PyTorch's outputs for the inputs of a seed, with the
        limits of their errors where the network is quantised. `relative` as in `error_limit`.
        """
        outputs = [first_numbers(each).tolist() for each in self.random.expected]
        said: dict[str, Any] = {"verified": verdict.verified, "error": verdict.error, "tolerance": verdict.tolerance}
        if any(self.random.allowed):
            pairs = zip(self.random.expected, self.random.allowed, strict=True)
            limits = [error_limit(x, relative=relative) + more for x, more in pairs]
            pardoned = verdict.allowed or (0.0,) * len(limits)
            said |= {"allowed": list(map(max, limits, pardoned))}
        return {"seed": SEED, "outputs": outputs, **said, "notes": list(verdict.notes)}


def bounds(x: np.ndarray) -> tuple[float, float]:
    """Least and largest number."""
    return (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)


def within(signature: Signature, ranges: Sequence[tuple[float, float]]) -> Signature:
    """The signature with these ranges of its inputs; whole numbers are the larger end of theirs, which a divisor or a
    size may be where 0 may not.
    """
    inputs = zip(signature.inputs, ranges, strict=True)
    return replace(signature, inputs=tuple(replace(spec, range=range_of(spec, *ends)) for spec, ends in inputs))


def range_of(spec: TensorSpec, low: float, high: float) -> tuple[float, float]:
    """What a random input is taken from."""
    if spec.dtype == "bool":
        return 0, 1
    return (low, high) if spec.is_floating else (int(high), int(high))


def check_joined(artifact: Artifact, target: Target) -> None:
    """Raises CheckFailed where the code for several shapes together departs from PyTorch, though that for each alone,
    which has been checked, did not. Not looked at are code for another CPU, and what passed for a reason of its own.
    """
    if not targets.runs_here(target) or any(each["check"]["notes"] for each in each_shape(artifact.manifest)):
        return
    for spec, error, limit in artifact.errors():
        if not error <= limit:
            raise CheckFailed(
                f"the network for several shapes is wrong: its output {spec} differs from PyTorch by {error:.2e}, more "
                "than where it was compiled for that shape alone: a fault of this compiler, please report it"
            )
