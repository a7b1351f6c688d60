"""The check that every compiled network passes before anybody gets it.

check = Check.of(imported, module, example_inputs, example_kwargs)
built, verdict = check.built(compilation)  # raises CheckFailed
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from subp_contract.errors import CheckFailed
from tvm_sched import pipeline
from tvm_sched.deploy.manifest import first_numbers
from tvm_sched.frontend.aten.source_place import operator, place
from tvm_sched.frontend.torch_export import Imported, arguments, to_array
from tvm_sched.pipeline import Built, Compilation
from tvm_sched.planning.plan import Restrictions
from tvm_sched.signature import check_inputs
from tvm_sched.verification import diagnosis, rounding
from tvm_sched.verification.comparison import Agreement, absolute_errors, blindness, compare
from tvm_sched.verification.host import for_here, runner, unable
from tvm_sched.verification.reference import Network, Reference

SEED = 0  # of the random inputs
ROUNDS = 2  # of compiling again with kernels that round less
AMPLIFIED = 2.0  # how many times PyTorch's distance from float64 a network that amplifies rounding may be away


@dataclass(frozen=True)
class Verdict:
    """What a check found, for the manifest and for the reader."""

    verified: bool
    error: float | None = None  # largest absolute one of the output of fractions that is nearest to its limit
    tolerance: float | None = None  # that limit
    notes: tuple[str, ...] = ()  # sentences
    blind: str = ""  # one of them: that the network's outputs would hide errors


UNCHECKED = Verdict(False, notes=("not checked against PyTorch, as asked",))


@dataclass(frozen=True)
class Case:
    """Inputs, and PyTorch's outputs for them."""

    reference: Reference = field(repr=False)
    inputs: list[np.ndarray]

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """In the network's own precision."""
        return self.reference(self.inputs)

    @cached_property
    def in_float64(self) -> list[np.ndarray] | None:
        """In double precision, where the network allows it."""
        return self.reference.in_float64(self.inputs)


@dataclass(frozen=True)
class Finding:
    """How one output for one case agrees."""

    case: Case
    output: int
    value: np.ndarray
    agreement: Agreement


class Check:
    """A network's cases and how they are judged."""

    def __init__(self, imported: Imported, reference: Reference, example: Sequence[np.ndarray] | None = None):
        """`example`: the user's inputs, if there are any."""
        self.imported, self.reference = imported, reference
        self.random = self.case(SEED)  # the manifest tells of it
        self.other = self.case(SEED + 1) if example is None else Case(reference, list(example))

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
        return cls(imported, Reference(network, signature), example)

    def case(self, seed: int) -> Case:
        """That of random inputs."""
        return Case(self.reference, check_inputs(self.imported.signature.inputs, seed))

    def built(self, compilation: Compilation) -> tuple[Built, Verdict]:
        """The network as code that agrees with PyTorch, and how well it does; layers whose rounding the outputs would
        show have kernels that round less than the fastest.

        Raises CheckFailed where it does not agree, with the first operator that departs.
        """
        if why := unable(compilation.target):
            return pipeline.build_network(self.imported, compilation), Verdict(False, notes=(f"not checked: {why}",))
        for round in range(ROUNDS + 1):
            built = pipeline.build_network(self.imported, compilation)
            findings = list(self.findings(built, compilation))
            pardons = [self.pardon(each) for each in findings]
            failed = [each for each, pardon in zip(findings, pardons, strict=True) if pardon is None]
            if not failed:
                return built, self.verdict(findings, pardons)
            worst = max(failed, key=lambda each: each.agreement.excess)
            finer = None if round == ROUNDS else self.finer(built, compilation, worst)
            if finer is None:
                raise CheckFailed(self.sentence(worst, compilation))
            compilation = replace(compilation, restrictions=finer)
        raise AssertionError("the last round returns or raises")

    def told(self, verdict: Verdict) -> dict:
        """What a manifest says under `check`: the verdict, and PyTorch's outputs for the inputs of a seed."""
        outputs = [first_numbers(each).tolist() for each in self.random.expected]
        said = {"verified": verdict.verified, "error": verdict.error, "tolerance": verdict.tolerance}
        return {"seed": SEED, "outputs": outputs, **said, "notes": list(verdict.notes)}

    def findings(self, built: Built, compilation: Compilation) -> Iterator[Finding]:
        """Of each output, for each case."""
        run = runner(built, self.imported, compilation)
        for case in (self.other, self.random):
            for output, (value, expected) in enumerate(zip(run(case.inputs), case.expected, strict=True)):
                yield Finding(case, output, value, compare(value, expected))

    def pardon(self, finding: Finding) -> str | None:
        """Why an output that departs is right all the same; empty where it agrees, None where it is wrong."""
        if finding.agreement.holds:
            return ""
        name = self.name_of(finding.output)
        expected, value = finding.case.expected[finding.output], finding.value
        if value.shape != expected.shape or value.dtype != expected.dtype:
            return None
        if finding.agreement.limit == 0:
            tie = diagnosis.is_tie(self.imported, self.first_part(finding.case), finding.output, value)
            return f"output {name} differs from PyTorch's where numbers are equal but for rounding" if tie else None
        exact = finding.case.in_float64
        if exact is None or exact[finding.output].shape != expected.shape:
            return None
        ours, theirs = (float(absolute_errors(each, exact[finding.output]).max()) for each in (value, expected))
        if not ours <= max(finding.agreement.limit, AMPLIFIED * theirs) < np.inf:
            return None
        return (
            f"the network magnifies rounding: output {name} is {ours:.1e} from what PyTorch computes in float64, and "
            f"PyTorch's own in float32 {theirs:.1e}"
        )

    def verdict(self, findings: Sequence[Finding], pardons: Sequence[str | None]) -> Verdict:
        """Of findings that are all right."""
        told = {each.output: pardon for each, pardon in zip(findings, pardons, strict=True) if pardon}
        notes = list(told.values())
        alike = all(map(np.array_equal, self.other.inputs, self.random.inputs))
        blind = blindness([self.other.expected, self.random.expected], alike)
        if blind:
            blind = f"the check against PyTorch says little, as this network's outputs would hide errors: {blind}"
            notes.append(blind)
        floats = [each.agreement for each in findings if each.agreement.limit]
        nearest = max(floats, key=lambda agreement: agreement.excess, default=Agreement(0.0, 0.0, ""))
        return Verdict(True, nearest.error, nearest.limit, tuple(notes), blind)

    def finer(self, built: Built, compilation: Compilation, finding: Finding) -> Restrictions | None:
        """Restrictions by which kernels round less, where that may mend what was found."""
        if not np.isfinite(finding.agreement.excess):
            return None
        inputs, excess = self.first_part(finding.case), finding.agreement.excess
        return rounding.finer(built.lowered.choices, compilation.restrictions, self.imported.core, inputs, excess)

    def sentence(self, finding: Finding, compilation: Compilation) -> str:
        """What is wrong, where it begins, what to do."""
        words = f"the compiled network is wrong: its output {self.name_of(finding.output)} {finding.agreement.words}"
        inputs = self.first_part(finding.case)
        departure = diagnosis.first_departure(self.imported, for_here(compilation), inputs, finding.output)
        if departure is None:
            where = "no single operator departs"
        else:
            node, agreement = departure
            node = node if operator(node) else next(iter(node.all_input_nodes), node)  # an item of several results
            where = f"the first to depart is {place(node)}, whose value {agreement.words}"
        return f"{words}; {where}: a fault of this compiler, please report it (check=False compiles all the same)"

    def first_part(self, case: Case) -> list[np.ndarray]:
        """The inputs of the first part of the batch, which the imported program takes."""
        parts = self.imported.parts
        return [x[: len(x) // parts] for x in case.inputs] if parts > 1 else case.inputs

    def name_of(self, output: int) -> str:
        """An output's name, quoted."""
        return f"'{self.imported.signature.outputs[output].name}'"
