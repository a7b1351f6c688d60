"""What was chosen for each layer, and why: the rows that `compile --explain` prints and that an artifact carries."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

ZEROS = "zeros"  # in the place of a kernel's name: a layer whose weight is zero computes nothing
IN_PLACE = "_in_place"  # ends the names of functions that write over an operand; the same function otherwise
TIMED = "_timed"  # ends the name of the function that computes a network and tells when each of its steps began


@dataclass(frozen=True)
class LayerChoice:
    """One convolution or linear layer of a compiled network."""

    name: str
    op: str  # 'conv2d 3x3 stride 2', 'depthwise 3x3', 'linear'
    shape: str  # 'input -> output', each 'channels x height x width'
    n: int | None  # block size of the zeros found; None if there are none
    density: float  # fraction of the blocks of that size that are kept
    kept: int  # blocks that a block row of the kernel's own size computes
    total: int  # blocks that a block row has: input channels
    macs: int  # multiply-adds of the dense layer, the whole batch
    kernel: str  # kernel and the block size it runs with
    why: str
    schedule: str = ""  # the knobs, and whether a record or the analytic default set them
    kept_macs: int = 0  # multiply-adds of the blocks that are stored, by direct convolution, the whole batch
    weights: int = 0  # numbers in the blocks that are stored
    function: str = ""  # the compiled function that computes the layer; empty if none does
    call: int = 0  # which of the network's calls of that function, from 0
    precision: str = "float32"  # of its operands and sums
    rounding: float = 1.0  # the kernel's error by rounding, in multiples of the direct kernel's
    weights_dtype: str = "float32"  # in which its weights are stored, and read

    @property
    def narrow_weights(self) -> bool:
        """Whether its weights are stored in less than it computes in."""
        return self.weights_dtype != self.precision


def table(choices: Iterable[LayerChoice]) -> Table:
    """The rows as a table for the terminal; calls that differ in nothing, as the steps of a recurrent layer, are one
    line.
    """
    rows, choices = Table(show_edge=False, pad_edge=False), list(choices)
    narrow = any(choice.precision != "float32" for choice in choices)
    precision = ["precision"] if narrow else []
    for column in ("layer", "op", "shape", "1xN", "kept", *precision, "kernel", "schedule", "why"):
        rows.add_column(column, overflow="fold")
    for line, times in Counter(line_of(choice, narrow) for choice in choices).items():
        name, op, *rest = line
        rows.add_row(name, f"{op}, {times} times" if times > 1 else op, *rest)
    return rows


def line_of(choice: LayerChoice, narrow: bool) -> tuple[str, ...]:
    """A choice in words, column by column; with its precision where some layer is `narrow`."""
    n = f"1x{choice.n}" if choice.n else "-"
    return (
        choice.name,
        choice.op,
        choice.shape,
        n,
        f"{choice.kept}/{choice.total}",
        *([choice.precision] if narrow else []),
        choice.kernel,
        choice.schedule,
        choice.why,
    )
