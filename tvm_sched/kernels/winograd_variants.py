"""The transforms of Winograd's algorithm, F(m, r): which points they interpolate at, and what they cost in accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from tvm_sched.kernels.base import STORED_ROUNDING


@dataclass(frozen=True)
class Variant:
    """F(m, r), for the interpolation points 0, 1, -1 (and 2, -2) and infinity. Common subexpressions are written alike:
    they are computed once.

    Half precision has other points than 1 and 2, which round less than half as much: sqrt(1/2) and sqrt(2), whose
    transforms have no number above 2.5. What sqrt(2) interpolates is scaled by 4, so that it does not get too small.
    """

    m: int
    taps: int  # r
    half: bool = False

    def __str__(self) -> str:
        return f"F({self.m},{self.taps})"

    @property
    def size(self) -> int:
        """e: rows of an input tile."""
        return self.m + self.taps - 1

    def of_dtype(self, dtype: str) -> "Variant":
        """The same for data of that type. Of points 0, 1 and -1 alone there are no better ones."""
        return replace(self, half=dtype == "float16" and self.size == 6)

    @property
    def numbers(self) -> list[int]:
        """What it is made of, as an attribute of a block."""
        return [self.m, self.taps, *([1] if self.half else [])]

    @classmethod
    def of_numbers(cls, numbers: Sequence) -> "Variant":
        """The variant that is made of these."""
        m, taps, *half = map(int, numbers)
        return cls(m, taps, bool(half))

    @property
    def rounding(self) -> float:
        """Its error by rounding, in multiples of the direct kernel's, measured on 256 channels of normal numbers: the
        transforms for the points 2 and -2 magnify what the products round.
        """
        return {4: 1.0, 6: 3.5 if self.half else 5.0}[self.size]

    def rounding_of(self, weights: str | None) -> float:
        """The same with U stored in that dtype: what its numbers are rounded by is magnified more."""
        if weights is None:
            return self.rounding
        return STORED_ROUNDING[weights] * {4: 1.9, 6: 11.0}[self.size]

    @property
    def weight(self) -> list[list[float]]:
        """G, [e, r]: the values of a polynomial with r coefficients at the points, scaled so that the input's transform
        has whole numbers.
        """
        points: dict[int, tuple] = {
            4: ((0, 1), (1, 1 / 2), (-1, 1 / 2)),
            6: ((0, 1 / 4), (1, -1 / 6), (-1, -1 / 6), (2, 1 / 24), (-2, 1 / 24)),
        }
        if self.half:
            points[6] = ((0, 1), (ROOT, -2 / 3), (-ROOT, -2 / 3), (2 * ROOT, 2 / 3), (-2 * ROOT, 2 / 3))
        return [[scale * point**power for power in range(self.taps)] for point, scale in points[self.size]] + [
            [0.0] * (self.taps - 1) + [1.0]
        ]

    def input(self, d: list, number: Callable = float) -> list:
        """B^T d for a list of e values; `number` makes a constant of their type."""
        if self.size == 4:
            return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
        if self.half:
            root, ends = number(ROOT), number(2.5)
            even, odd = d[4] - 2 * d[2], root * (d[3] - 2 * d[1])
            even2, odd2 = d[4] - d[2] / 2, root * (2 * d[3] - d[1])
            first, last = d[0] - ends * d[2] + d[4], d[1] - ends * d[3] + d[5]
            return [first, even + odd, even - odd, even2 + odd2, even2 - odd2, last]
        even, odd, even2, odd2 = d[4] - 4 * d[2], d[3] - 4 * d[1], d[4] - d[2], 2 * (d[3] - d[1])
        return [
            4 * d[0] - 5 * d[2] + d[4],
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            4 * d[1] - 5 * d[3] + d[5],
        ]

    def output(self, s: list, number: Callable = float) -> list:
        """A^T s for a list of e values: row i has the points' i-th powers, infinity counts in the last row alone;
        `number` makes a constant of their type.
        """
        plus, minus = s[1] + s[2], s[1] - s[2]
        if self.half:
            plus2, minus2 = s[3] + s[4], s[3] - s[4]
            pairs = ((plus, plus2 / 4), (minus, minus2 / 2), (plus / 2, plus2 / 2), (minus / 2, minus2))
            odd = number(ROOT)
            sums = [odd * (one + other) if i % 2 else one + other for i, (one, other) in enumerate(pairs[: self.m])]
            return [s[0] + sums[0], *sums[1:-1], sums[-1] + s[-1]]
        rows = [(plus, minus)[i % 2] for i in range(self.m)]
        if self.size == 6:
            plus2, minus2 = s[3] + s[4], s[3] - s[4]
            rows = [row + (plus2, minus2)[i % 2] * 2**i if i else row + plus2 for i, row in enumerate(rows)]
        return [s[0] + rows[0], *rows[1:-1], rows[-1] + s[-1]]


ROOT = sqrt(1 / 2)
VARIANTS = (Variant(2, 3), Variant(4, 3), Variant(3, 4), Variant(2, 5))
