"""What a network is checked on, and how its outputs agree there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from subp_contract.errors import UserError
from tvm_sched.frontend.torch_export import Imported
from tvm_sched.verification import ties, widening
from tvm_sched.verification.comparison import Agreement, absolute_errors, compare, rms
from tvm_sched.verification.core import output_node, values
from tvm_sched.verification.quantised import allowances
from tvm_sched.verification.reference import Reference, own_tensor

AMPLIFIED = 3.0  # how many times as far as rounding takes PyTorch from float64 a network that magnifies it may be
SEEDS = (0, 1)  # of rounding


class Case:
    """Inputs, and what is known of the outputs for them. `reference` computes these."""

    def __init__(self, imported: Imported, reference: Reference, inputs: Sequence[np.ndarray]):
        self.imported, self.reference, self.inputs = imported, reference, list(inputs)

    @cached_property
    def expected(self) -> list[np.ndarray]:
        """PyTorch's outputs in the network's own precision."""
        return self.reference(self.inputs)

    @property
    def runs(self) -> bool:
        """Whether PyTorch takes these inputs."""
        try:
            return self.expected is not None
        except UserError:
            return False

    @cached_property
    def in_float64(self) -> list[np.ndarray] | None:
        """PyTorch's outputs in double precision, where the network allows it."""
        return self.reference.in_type(self.inputs, torch.float64)

    @cached_property
    def rounded(self) -> list[list[np.ndarray]]:
        """The outputs as rounding makes them: PyTorch's in the network's own precision, and in double precision with
        what is quantised changed by so much.
        """
        runs = [self.reference.in_type(self.inputs, torch.float64, seed) for seed in SEEDS]
        return [self.expected, *(run for run in runs if run is not None)]

    def rounding(self, output: int) -> list[np.ndarray]:
        """How far from float64 rounding takes an output, element by element, in each of these runs."""
        assert self.in_float64 is not None
        return [absolute_errors(each[output], self.in_float64[output]) for each in self.rounded]

    @cached_property
    def allowed(self) -> list[float]:
        """What each output of a quantised network may differ by, as its numbers are rounded."""
        return allowances(self.imported.core, self.first_part)

    @property
    def first_part(self) -> list[np.ndarray]:
        """The inputs of the first part of the batch, which the imported program takes."""
        parts = self.imported.parts
        return [x[: len(x) // parts] for x in self.inputs] if parts > 1 else self.inputs


@dataclass(frozen=True)
class Finding:
    """How one output for one case agrees."""

    case: Case
    output: int
    value: np.ndarray
    agreement: Agreement
    pardon: str  # why it is right though it departs, a sentence; empty where it is not, or agrees

    @property
    def is_right(self) -> bool:
        """Whether the output may be given to anybody."""
        return self.agreement.holds or bool(self.pardon)

    @property
    def allowed(self) -> float:
        """What the error of an output may be that is pardoned for PyTorch's own rounding; else 0."""
        exact = self.case.in_float64 if self.pardon and self.agreement.limit else None
        if exact is None:
            return 0.0
        theirs = max(float(each.max(initial=0.0)) for each in self.case.rounding(self.output))
        return (AMPLIFIED + 1) * theirs


def found(case: Case, output: int, value: np.ndarray, precision: str = "float32", relative: float = 0.0) -> Finding:
    """What there is to say of one output's value, computed in that precision. `relative`: what errors may be of the
    largest number (`manifest.relative_of`).
    """
    agreement = compare(value, case.expected[output], case.reference.name, case.allowed[output], relative)
    narrow = precision in widening.NARROW  # whose layers may be in float32 instead
    departs = not agreement.holds and not agreement.other_kind and not narrow
    pardon = pardon_of(case, output, value, agreement, relative) if departs else ""
    return Finding(case, output, value, agreement, pardon)


def pardon_of(case: Case, output: int, value: np.ndarray, agreement: Agreement, relative: float) -> str:
    """Why an output that departs is right all the same; empty where it is wrong."""
    name = case.imported.signature.outputs[output].name
    if agreement.limit == 0:
        tie = f"output '{name}' differs from PyTorch where numbers are equal but for rounding"
        return tie if is_tie(case, output, value, relative) else ""
    if case.in_float64 is None or case.in_float64[output].shape != value.shape:
        return ""
    ours, theirs = absolute_errors(value, case.in_float64[output]), case.rounding(output)
    for size in (np.max, rms):
        most = max(float(size(each)) for each in theirs)
        if size(ours) > max(agreement.limit, AMPLIFIED * most):
            return ""
    if not np.isfinite(ours).all():
        return ""
    return (
        f"the network magnifies rounding: output '{name}' is {ours.max():.1e} from what PyTorch computes in float64, "
        f"rounding takes PyTorch's own up to {max(each.max() for each in theirs):.1e} from there"
    )


def is_tie(case: Case, output: int, value: np.ndarray, relative: float) -> bool:
    """Whether rounding alone explains that an output's whole numbers or booleans are not PyTorch's."""
    if case.imported.parts > 1:
        return False
    try:
        known = values(case.imported.core, case.inputs)
        return ties.explains(output_node(case.imported.core, output), own_tensor(value), known, relative)
    except Exception:  # of any kind, as operators' own code runs
        return False
