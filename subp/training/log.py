"""What is kept of each epoch besides the checkpoint: a line of log.csv, lines of masks.csv, points in TensorBoard's
curves.
"""

import csv
import io
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path

from torch import Tensor

from subp.pruning.block_masks import Churn, churn_by_layer
from subp_contract.distribution import install
from subp_contract.errors import UserError
from subp_contract.files import write_atomically

Churns = dict[str, list[list[int]]]  # layer name -> [epoch, *Churn] of each epoch that moved a mask, in order


def write_csv(path: Path, history: list[dict]) -> None:
    """One CSV line an epoch, which count from 1 here. The file is replaced as a whole: it never ends in half a line."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows({**row, "epoch": row["epoch"] + 1} for row in history)
    write_atomically(path, text.getvalue().encode())


def note_churn(noted: Churns, epoch: int, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Adds an epoch's, by its masks, to those of the epochs before; nothing where no mask moved."""
    for name, churn in churn_by_layer(before, after).items():
        noted.setdefault(name, []).append([epoch, *churn])


def masks_rows(noted: Churns) -> list[dict]:
    """The lines of masks.csv, epoch by epoch."""
    rows = [(epoch, layer, *counts) for layer, epochs in noted.items() for epoch, *counts in epochs]
    names = ("epoch", "layer", *Churn._fields)
    return [dict(zip(names, row, strict=True)) for row in sorted(rows, key=itemgetter(0))]


class Scalars:
    """TensorBoard's event files in `folder`, one point an epoch, from 1 on, for each number of
    the history.

    epochs: done before; points of later ones, which a killed run may have left, are dropped
    Raises UserError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(f"TensorBoard is not installed: {install('tensorboard')}") from error
        self._writer = SummaryWriter(str(folder), purge_step=epochs + 1)

    def write(self, row: dict) -> None:
        """An entry of the history, on the disk when this returns."""
        for name in row.keys() - {"epoch"}:
            self._writer.add_scalar(name, row[name], row["epoch"] + 1)
        self._writer.flush()
