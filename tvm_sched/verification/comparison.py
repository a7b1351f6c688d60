"""Outputs against what is expected: pure functions on NumPy arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from tvm_sched.deploy.manifest import error_limit


@dataclass(frozen=True)
class Agreement:
    """How far an output is from what is expected."""

    error: float  # largest absolute; infinite where the two differ in kind, or one of them is not finite
    limit: float  # that the error may have; 0 for whole numbers and booleans
    words: str  # where the limit is passed, what differs, after "the compiled network's output"
    other_kind: bool = False  # shape or dtype differ

    @property
    def holds(self) -> bool:
        """Whether the output may pass for what is expected."""
        return self.error <= self.limit

    @property
    def excess(self) -> float:
        """The error in multiples of its limit."""
        return self.error / self.limit if self.limit else inf if self.error else 0.0


def compare(
    output: np.ndarray,
    expected: np.ndarray,
    whose: str = "PyTorch",
    allowed: float = 0.0,
    relative: float = 0.0,
) -> Agreement:
    """Whether `output` is what is expected: shape and dtype the same, floating-point numbers within `error_limit`, NaN
    and infinities at the same places, whole numbers and booleans equal. `whose` the expected numbers are, in words;
    `allowed`: what they may differ by beyond that, as rounding in 8 bits falls; `relative` as in `error_limit`.
    """
    if output.shape != expected.shape or output.dtype != expected.dtype:
        words = f"is {kind(output)}, that of {whose} {kind(expected)}"
        return Agreement(inf, 0.0, words, other_kind=True)
    limit = error_limit(expected, relative=relative) + allowed
    errors = absolute_errors(output, expected)
    error, numbers = float(errors.max(initial=0.0)), f"of {errors.size} numbers"
    if error <= limit:
        return Agreement(error, limit, "")
    if limit == 0:
        return Agreement(error, limit, f"differs from {whose} in {np.count_nonzero(errors)} {numbers}")
    if error == inf:
        lost = int(np.isinf(errors).sum())
        return Agreement(error, limit, f"is NaN or infinite, or that of {whose} is, in {lost} {numbers}")
    return Agreement(error, limit, f"differs from {whose} by {error:.2e}, more than {limit:.2e}")


def absolute_errors(output: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """|output - expected|, element by element in float64: 0 where both are NaN or the same infinity, infinite where
    only one is finite.
    """
    wide, wanted = output.astype("float64"), expected.astype("float64")
    same = (output == expected) | (np.isnan(wide) & np.isnan(wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(wide - wanted)
    least = np.finfo("float64").tiny  # of whole numbers beyond 2^53, which float64 does not tell apart
    return np.where(same, 0.0, np.maximum(np.nan_to_num(errors, nan=inf, posinf=inf), least))


def rms(errors: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))


def kind(array: np.ndarray) -> str:
    """Shape and dtype in words."""
    return f"{list(array.shape)} of {array.dtype}"


def blindness(expected: Sequence[Sequence[np.ndarray]], alike: bool) -> str:
    """Why the network's outputs for several inputs, PyTorch's, would hide an error: a sentence's end, empty if they do
    not. `alike`: the inputs themselves are the same.
    """
    outputs = [output for each in expected for output in each if output.size]
    if not outputs:
        return ""  # nothing to be wrong
    if not any(np.isfinite(output).any() for output in outputs):
        return "none of them is a finite number"
    if not any(output.any() for output in outputs):
        return "they are all zero"
    first, *others = expected
    same = all(np.array_equal(a, b, equal_nan=True) for other in others for a, b in zip(first, other, strict=True))
    return "they are the same for different inputs" if same and others and not alike else ""
