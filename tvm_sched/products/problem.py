"""A convolution as the three products see it: its sizes, and how images lie in planes where all taps are mere shifts.

A plane holds, of one channel, the pixels that one phase of the strides reads, row by row, padding included: `plane[i,
j] = x[i*S + phase - padding]`. A row is as long as an output's and the taps' widest shift together, so that output
position `p = h*pitch + w` reads `plane[p + shift]` for each tap, across the ends of rows too; what is computed at the
few positions between two rows is dropped, or multiplied by zero.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from math import ceil, gcd, prod
from typing import Any

Pair = tuple[int, int]
BYTES = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Problem:
    """`x [batch, channels, *image]`, weights `[outputs, channels / groups, *kernel]` in blocks of n outputs.

    n must divide outputs / groups, padding is the same on opposite sides. turned: x and y lie as `[batch, *image,
    channels]`, rows of a linear layer; of pointwise problems without strides and padding. interleaved: so many images
    lie side by side at each pixel of a plane, and `batch` counts such groups.
    """

    batch: int
    channels: int
    outputs: int
    image: Pair
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    n: int = 16
    dtype: str = "float32"
    turned: bool = False
    interleaved: int = 1

    @cached_property
    def output(self) -> Pair:
        """Rows and columns of an output image."""
        height, width = (
            (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
            for size, pad, spread, taps, step in zip(
                self.image, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return height, width

    @property
    def block_rows(self) -> int:
        """Rows of blocks."""
        return self.outputs // self.n

    @property
    def inputs(self) -> int:
        """Inputs of an output: the most blocks that a row can keep."""
        return self.channels // self.groups

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return prod(self.kernel)

    @property
    def pointwise(self) -> bool:
        """Whether no tap is shifted, so that positions of several images can be one row."""
        return self.kernel == (1, 1)

    @cached_property
    def phases(self) -> list[Pair]:
        """Those of the strides that a tap reads, by row and column."""
        rows, columns = (
            sorted({tap * spread % step for tap in range(taps)})
            for taps, spread, step in zip(self.kernel, self.dilation, self.stride, strict=True)
        )
        return [(row, column) for row in rows for column in columns]

    @cached_property
    def widest(self) -> Pair:
        """The largest shift of a tap within its phase, in rows and columns of a plane."""
        rows, columns = (
            (taps - 1) * spread // step
            for taps, spread, step in zip(self.kernel, self.dilation, self.stride, strict=True)
        )
        return rows, columns

    @property
    def rows(self) -> int:
        """Of a plane."""
        return self.output[0] + self.widest[0]

    @property
    def columns(self) -> int:
        """Pixels of a plane's row."""
        return self.output[1] + self.widest[1]

    @property
    def pitch(self) -> int:
        """Positions of a plane's row."""
        return self.columns * self.interleaved

    def tap(self, row: Any, column: int) -> tuple[Any, Any]:
        """(number of the phase that the tap in this row and column of the kernel reads, its shift in positions); `row`
        is a number, or where `rows_alike` an expression.
        """
        (high, down), (wide, right) = (
            (at * spread % step, at * spread // step)
            for at, spread, step in zip((row, column), self.dilation, self.stride, strict=True)
        )
        wide = sorted({right for _, right in self.phases}).index(wide)
        if isinstance(row, int):
            high = sorted({down for down, _ in self.phases}).index(high)
        else:
            high = high // gcd(self.dilation[0], self.stride[0])
        return high * len({right for _, right in self.phases}) + wide, down * self.pitch + right * self.interleaved

    @property
    def rows_alike(self) -> bool:
        """Whether `tap` may be asked for a row that is an expression."""
        common = gcd(self.dilation[0], self.stride[0])
        found = [row * self.dilation[0] % self.stride[0] for row in range(self.kernel[0])]
        return all(sorted(set(found)).index(phase) == phase // common for phase in found)

    @property
    def margin(self) -> int:
        """The largest shift of all, in positions."""
        return self.widest[0] * self.pitch + self.widest[1] * self.interleaved

    def rows_within(self, phase: int) -> tuple[int, int]:
        """[first, end) of a plane's rows that lie in the image."""
        return self._within(0, phase, self.rows)

    def columns_within(self, phase: int) -> tuple[int, int]:
        """[first, end) of the columns of a plane's row that lie in the image and not in its padding, in pixels."""
        return self._within(1, phase, self.columns)

    def _within(self, axis: int, phase: int, count: int) -> tuple[int, int]:
        pad, step = self.padding[axis], self.stride[axis]
        first = min(count, max(0, ceil((pad - phase) / step)))
        return first, max(first, min(count, (self.image[axis] - 1 + pad - phase) // step + 1))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one product, all blocks kept."""
        return self.batch * self.interleaved * prod(self.output) * self.outputs * self.inputs * self.taps

    def key(self) -> str:
        """All of it in a line."""
        return ",".join(f"{each.name}={getattr(self, each.name)}" for each in fields(self)).replace(" ", "")


@dataclass(frozen=True)
class Norm:
    """A batch norm of `x [batch, channels, *]`, so many pixels in all."""

    batch: int
    channels: int
    pixels: int
    dtype: str = "float32"

    def key(self) -> str:
        """All of it in a line."""
        return repr(self)
