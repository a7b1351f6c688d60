"""The transforms of Winograd's algorithm, F(m, r): which points they interpolate at, and what they cost in accuracy."""

from dataclasses import dataclass

from tvm_sched.kernels.base import STORED_ROUNDING
from tvm_sched.targets.sizes import FLOAT32


@dataclass(frozen=True)
class Variant:
    """F(m, r), for the interpolation points 0, 1, -1 (and 2, -2) and infinity. Common subexpressions are written alike:
    they are computed once.
    """

    m: int
    taps: int  # r

    def __str__(self) -> str:
        return f"F({self.m},{self.taps})"

    @property
    def size(self) -> int:
        """e: rows of an input tile."""
        return self.m + self.taps - 1

    @property
    def rounding(self) -> float:
        """Its error by rounding, in multiples of the direct kernel's, measured on 256 channels of normal numbers: the
        transforms for the points 2 and -2 magnify what the products round.
        """
        return {4: 1.0, 6: 5.0}[self.size]

    def rounding_of(self, weights: str) -> float:
        """The same with U stored in that dtype: what its numbers are rounded by is magnified more."""
        if weights == FLOAT32:
            return self.rounding
        return STORED_ROUNDING[weights] * {4: 1.9, 6: 11.0}[self.size]

    @property
    def weight(self) -> list[list[float]]:
        """G, [e, r]: the values of a polynomial with r coefficients at the points, scaled so that the input's transform
        has whole numbers.
        """
        points = {
            4: ((0, 1), (1, 1 / 2), (-1, 1 / 2)),
            6: ((0, 1 / 4), (1, -1 / 6), (-1, -1 / 6), (2, 1 / 24), (-2, 1 / 24)),
        }[self.size]
        return [[scale * point**power for power in range(self.taps)] for point, scale in points] + [
            [0.0] * (self.taps - 1) + [1.0]
        ]

    def input(self, d: list) -> list:
        """B^T d for a list of e values."""
        if self.size == 4:
            return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]
        even, odd, even2, odd2 = d[4] - 4 * d[2], d[3] - 4 * d[1], d[4] - d[2], 2 * (d[3] - d[1])
        return [
            4 * d[0] - 5 * d[2] + d[4],
            even + odd,
            even - odd,
            even2 + odd2,
            even2 - odd2,
            4 * d[1] - 5 * d[3] + d[5],
        ]

    def output(self, s: list) -> list:
        """A^T s for a list of e values: row i has the points' i-th powers, infinity counts in the last row alone."""
        plus, minus = s[1] + s[2], s[1] - s[2]
        rows = [(plus, minus)[i % 2] for i in range(self.m)]
        if self.size == 6:
            plus2, minus2 = s[3] + s[4], s[3] - s[4]
            rows = [row + (plus2, minus2)[i % 2] * 2**i if i else row + plus2 for i, row in enumerate(rows)]
        return [s[0] + rows[0], *rows[1:-1], rows[-1] + s[-1]]


VARIANTS = (Variant(2, 3), Variant(4, 3), Variant(3, 4), Variant(2, 5))
