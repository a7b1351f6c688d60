"""The problem that the block-sparse kernels solve: a convolution whose output channels are divided into block rows.

Block row g holds output channels g*n ... g*n + n - 1, and keeps `kept` of the input channels, whole kernels each. Rows
are all equally long, so equal ranges of them are equal work for a thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from tvm_sched.targets.sizes import NUMBER_BYTES

ANNOTATION = {"block_rows": "groups"}  # names on a TIR block that differ from the field's: tuning records hold them


@dataclass(frozen=True)
class ConvProblem:
    """One convolution, or a linear layer: a 1x1 image a row."""

    batch: int
    height: int  # of the output
    width: int
    channels: int  # of the input
    block_rows: int
    kept: int  # input channels of a block row
    n: int  # output channels of a block row
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padded: bool = False
    indexed: bool = True  # False: all channels are kept, and no index is read
    weights: str | None = None  # dtype of 16 bits that they are widened from as they are loaded; None: the data's own

    @property
    def flat(self) -> bool:
        """Output pixel p reads input pixel p: all of the batch's pixels are one row."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not self.padded

    @property
    def image(self) -> tuple[int, int, int]:
        """(images, rows, columns) as a register tile sees them."""
        return (1, 1, self.batch * self.height * self.width) if self.flat else (self.batch, self.height, self.width)

    @property
    def row_weights(self) -> int:
        """Numbers of a block row's weights."""
        return self.kept * prod(self.kernel) * self.n

    def row_bytes(self, number_bytes: int) -> int:
        """Bytes of these weights in memory, where a number of the data takes `number_bytes`."""
        return self.row_weights * (NUMBER_BYTES[self.weights] if self.weights else number_bytes)

    @property
    def macs(self) -> int:
        """Multiply-adds of kept blocks, the whole batch."""
        return prod(self.image) * self.block_rows * self.n * self.kept * prod(self.kernel)

    def attributes(self) -> dict:
        """As attributes of a TIR block: what a schedule cannot read from the buffers' shapes travels with the block."""
        values = {annotation(name): getattr(self, name) for name in names()}
        if self.weights is None:  # as records have it, which are older than other weights
            del values[annotation("weights")]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def of_block(annotations: Mapping) -> "ConvProblem":
        """The problem that `attributes` wrote on a block."""
        told = [name for name in names() if annotation(name) in annotations]
        values: dict[str, Any] = {name: annotations[annotation(name)] for name in told}
        values |= {name: tuple(map(int, values[name])) for name in PAIRS}
        values |= {"weights": str(values["weights"])} if "weights" in values else {}
        return ConvProblem(**values)


PAIRS = ("kernel", "stride")


def names() -> list[str]:
    """The fields."""
    return [field.name for field in fields(ConvProblem)]


def annotation(name: str) -> str:
    """A field's name on a TIR block."""
    return f"work.{ANNOTATION.get(name, name)}"


def output_size(
    image: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """(height, width) of a convolution's output. All are (height, width) but `padding`: (top, left, bottom, right)."""
    height, width = (
        (image[axis] + padding[axis] + padding[axis + 2] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in range(2)
    )
    return height, width
