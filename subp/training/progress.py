"""How a run goes, on a terminal: a bar over the epoch's batches and a line for each epoch done."""

from collections.abc import Callable, Sequence

import rich.progress as bars
from rich.console import Console

from subp.pruning.channels.rearrange import LayerReport
from subp.pruning.summary import LayerState
from subp_contract.documents import shown


class Progress:
    """Told by the trainer what happens: `run` around all, `batches` and `advance` in an epoch, `epoch` after it."""

    def __init__(self, console: Console, label: str = "", share: Callable[[float], None] | None = None) -> None:
        """`share`: gets the share of the run that is done, from 0 to 1, in place of a bar."""
        self.console, self.label, self.epochs, self._share = console, label, 0, share
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )
        self._bar = bars.Progress(
            *columns, console=console, transient=True, disable=bool(share) or not console.is_terminal
        )
        self._task = self._bar.add_task("")
        self._skipped: set[str] = set()
        self._epoch = self._steps = self._done = 0

    @classmethod
    def silent(cls) -> "Progress":
        """Tells nobody."""
        return cls(Console(quiet=True))

    def layers(self, rows: Sequence[LayerState]) -> None:
        """What the sparsifier prunes, and what it leaves dense and why."""
        dense: dict[str, list[str]] = {}
        for row in rows:
            if row.reason:
                dense.setdefault(row.reason, []).append(row.name)
        pruned = [row for row in rows if not row.reason]
        sizes = sorted({row.n for row in pruned if row.n}, reverse=True)
        in_blocks = f" in blocks of {' and '.join(map(str, sizes))}" if sizes else ""
        count = f"{len(pruned)} layer{'s' * (len(pruned) != 1)}"
        self._print(f"prunes {count}{in_blocks}{'; dense stay:' if dense else ''}")
        for reason, names in dense.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            self._print(f"  {', '.join(names[:3])}{more}: {reason}")

    def rearranged(self, rows: Sequence[LayerReport]) -> None:
        """How far the filters of each layer are put in another order, and why not."""
        self._print(
            f"rearranges the filters of {sum(row.free > 0 for row in rows)} of {len(rows)} layers; in order stay:"
        )
        for row in rows:
            if row.reason:
                self._print(
                    f"  {row.outputs - row.free} of {row.weight.removesuffix('.weight')}'s {row.outputs}: {row.reason}"
                )

    def run(self, epochs: int, done: int) -> bars.Progress:
        """A context manager for the whole run of which `done` epochs are behind."""
        self.epochs = epochs
        if done >= epochs:
            self._print(f"the run is finished: its {epochs} epochs are done")
        elif done:
            self._print(f"resumes after {done} of {epochs} epochs")
        return self._bar

    def quantises(self, epochs: int) -> None:
        """From here on the network trains for 8 bits."""
        self._print(f"the last {epochs} of {self.epochs} epochs train for 8 bits, zeros stay where they are")

    def built(self, done: int, of: int) -> None:
        """So many of the functions are built that this machine computes steps without zeros by, once for all runs."""
        if not done:
            self._print(f"builds {of} kernels for this machine; later runs find them")
            self._bar.reset(self._task, total=of, description=f"{self.label}kernels built")
        else:
            self._bar.advance(self._task)

    def batches(self, epoch: int, steps: int) -> None:
        """An epoch of so many batches begins."""
        self._bar.reset(self._task, total=steps, description=f"{self.label}epoch {epoch + 1}/{self.epochs}")
        self._epoch, self._steps, self._done = epoch, steps, 0

    def advance(self) -> None:
        """A batch is done."""
        self._bar.advance(self._task)
        self._done += 1
        if self._share:
            self._share((self._epoch + self._done / self._steps) / self.epochs)

    def skipped(self, sentence: str) -> None:
        """An image was left out; told once."""
        if sentence not in self._skipped:
            self._skipped.add(sentence)
            self._print(f"skipped: {sentence}")

    def epoch(self, row: dict) -> None:
        """`row`: an entry of the history."""
        self._print(
            f"epoch {row['epoch'] + 1:>{len(str(self.epochs))}}/{self.epochs}  loss {row['train_loss']:.3f}  "
            f"validation accuracy {row['val_accuracy']:6.2%}  density {row['density']:4.0%}  "
            f"{row['images_per_s']:,.0f} images/s"
        )

    def _print(self, line: str) -> None:
        encoding = self.console.encoding
        told = shown(self.label + line, 10_000).encode(encoding, "backslashreplace").decode(encoding)
        self.console.print(told, highlight=False, markup=False, soft_wrap=True)
