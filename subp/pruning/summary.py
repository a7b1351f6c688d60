"""What a network's layers hold: `inspect(model)` gives a row for each Conv1d, Conv2d and Linear layer, each input
projection of MultiheadAttention (under the module's name) and each matrix of recurrent layers, found from the zeros
alone.

    for row in inspect(model, input_shape=(3, 224, 224)):
        print(row.name, row.n, row.density, row.macs)

Works on any nn.Module, whoever pruned it. Multiply-accumulates are counted for one image, without biases, norms and
activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.pruning.block_masks import density as kept_share
from subp.pruning.block_masks import is_uniform, nonzero_blocks
from subp.pruning.budget.macs import count_macs
from subp.pruning.masking import weight_of
from subp.pruning.selection import Place, all_places

BLOCK_SIZES = (64, 32, 16, 8, 4)
_INDEX_BYTES = 4


@dataclass(frozen=True)
class Row:
    """One layer.

    shape:        of the weight, [O, I / groups, *kernel]
    n:            block size found in the zeros, None for a layer without a zero block
    density:      nonzero blocks / blocks; without n: nonzero weights / weights
    uniform:      every group of n outputs keeps the same number of blocks; None without n
    macs:         of the dense layer, for one input; None if no input shape was given, or if the layer did not run
    dense_bytes:  of the weight as it is
    bsr_bytes:    of its nonzero blocks and one 4-byte index each (and row pointers where not uniform); without n:
                  dense_bytes
    """

    name: str
    type: str
    shape: tuple[int, ...]
    n: int | None
    density: float
    uniform: bool | None
    macs: int | None
    dense_bytes: int
    bsr_bytes: int

    @property
    def sparse_macs(self) -> int | None:
        """Multiply-accumulates of the nonzero blocks; a layer without n counts as dense."""
        if self.macs is None or self.n is None:
            return self.macs
        return round(self.macs * self.density)


def inspect(model: nn.Module, input_shape: Sequence[int] | None = None) -> list[Row]:
    """Rows in the model's order. input_shape: of one input, e.g. (3, 224, 224), to count multiply-accumulates."""
    places = all_places(model)
    macs = count_macs(model, places, input_shape) if input_shape else {}
    return [_row_of(name, place, macs.get(name)) for name, place in places.items()]


def find_n(weight: Tensor, groups: int = 1) -> int | None:
    """The block size that explains the zeros, as `tvm_sched` finds it: the largest of 64, 32, 16, 8, 4 by which the
    share of kept blocks [n outputs at one input channel] is least, or as good as least, for part of a kept block may
    have died in training.

    None for a weight without a zero block. Blocks lie within one of a convolution's groups, and are searched among the
    channels as they are: a permuted pattern is not found.
    """
    outputs = weight.shape[0] // groups  # of a group
    kept = {n: kept_share(nonzero_blocks(weight, n)) for n in BLOCK_SIZES if outputs % n == 0}
    least = min(kept.values(), default=1)
    if least == 1:
        return None
    return max(n for n, share in kept.items() if share <= 1.02 * least and 1 - share >= 0.98 * (1 - least))


def table(rows: Sequence[Row], title: str = "") -> Table:
    """For a rich console: the rows and their totals."""
    result = Table(title=title, show_footer=True)
    macs, sparse_macs = (_total(rows, field) for field in ("macs", "sparse_macs"))
    dense_bytes, bsr_bytes = (sum(getattr(row, field) for row in rows) for field in ("dense_bytes", "bsr_bytes"))
    weights = sum(torch.Size(row.shape).numel() for row in rows)
    kept = sum(torch.Size(row.shape).numel() * row.density for row in rows)
    result.add_column("layer", footer="total")
    result.add_column("type")
    result.add_column("weight", footer=f"{weights:,}", justify="right")
    result.add_column("n", justify="right")
    result.add_column("density", footer=f"{kept / weights:.1%}" if weights else "", justify="right")
    result.add_column("uniform")
    result.add_column("MACs", footer=_millions(macs), justify="right")
    result.add_column("sparse", footer=_millions(sparse_macs), justify="right")
    result.add_column("dense kB", footer=_kilobytes(dense_bytes), justify="right")
    result.add_column("BSR kB", footer=_kilobytes(bsr_bytes), justify="right")
    for row in rows:
        result.add_row(
            row.name,
            row.type,
            "x".join(map(str, row.shape)),
            str(row.n or "-"),
            f"{row.density:.1%}",
            {True: "yes", False: "no", None: "-"}[row.uniform],
            _millions(row.macs),
            _millions(row.sparse_macs),
            _kilobytes(row.dense_bytes),
            _kilobytes(row.bsr_bytes),
        )
    return result


def row(name: str, kind: str, weight: Tensor, groups: int, macs: int | None) -> Row:
    """The row of a layer of `weight` [O, I / groups, *kernel]."""
    dense_bytes = weight.numel() * weight.element_size()
    n = find_n(weight, groups)
    if n is None:
        density, uniform, bsr_bytes = int(weight.count_nonzero()) / weight.numel(), None, dense_bytes
    else:
        mask = nonzero_blocks(weight, n)
        kept, uniform = int(mask.sum()), is_uniform(mask)
        density = kept / mask.numel()
        block_bytes = dense_bytes // mask.numel()
        row_pointers = 0 if uniform else len(mask) + 1
        bsr_bytes = kept * (block_bytes + _INDEX_BYTES) + row_pointers * _INDEX_BYTES
    return Row(name, kind, tuple(weight.shape), n, density, uniform, macs, dense_bytes, bsr_bytes)


def _row_of(name: str, place: Place, macs: int | None) -> Row:
    kind = parametrize.type_before_parametrizations(place.layer).__name__
    return row(name, kind, weight_of(*place).detach(), getattr(place.layer, "groups", 1), macs)


def _total(rows: Sequence[Row], field: str) -> int | None:
    counts = [getattr(row, field) for row in rows if row.macs is not None]
    return sum(counts) if counts else None


def _millions(macs: int | None) -> str:
    return "-" if macs is None else f"{macs / 1e6:,.2f} M"


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:,.1f}"
