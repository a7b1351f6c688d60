"""What is kept of each epoch besides the checkpoint: a line of log.csv, lines of masks.csv, points in TensorBoard's
curves.
"""

import csv
import io
from pathlib import Path

from subp.pruning.churn import Churn, Log
from subp_contract.distribution import install
from subp_contract.errors import UserError
from subp_contract.files import write_atomically


def write_csv(path: Path, history: list[dict]) -> None:
    """One CSV line an epoch, which count from 1 here. The file is replaced as a whole: it never ends in half a line."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows({**row, "epoch": row["epoch"] + 1} for row in history)
    write_atomically(path, text.getvalue().encode())


def masks_rows(churn: Log) -> list[dict]:
    """The lines of masks.csv, epoch by epoch, of what a checkpoint has under `churn`."""
    names = ("epoch", *Churn._fields)
    rows = [{"layer": layer, **dict(zip(names, row, strict=True))} for layer, rows in churn.items() for row in rows]
    return [{"epoch": row["epoch"], **row} for row in sorted(rows, key=lambda row: row["epoch"])]


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
