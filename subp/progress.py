"""How a run goes, on a terminal: a bar over the epoch's batches and a line for each epoch done."""

import rich.progress as bars
from rich.console import Console


class Progress:
    """Told by the trainer what happens: `run` around everything, `batches` and `advance` within an epoch, `epoch` after it."""

    def __init__(self, console: Console, label: str = "") -> None:
        self.console, self.label, self.epochs = console, label, 0
        columns = ("{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
        self._bar = bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("")

    @classmethod
    def silent(cls) -> "Progress":
        return cls(Console(quiet=True))

    def run(self, epochs: int, done: int) -> bars.Progress:
        """A context manager for the whole run of which `done` epochs are behind."""
        self.epochs = epochs
        if done:
            self.console.print(f"{self.label}resuming after {done} of {epochs} epochs", highlight=False)
        return self._bar

    def batches(self, epoch: int, steps: int) -> None:
        self._bar.reset(self._task, total=steps, description=f"{self.label}epoch {epoch + 1}/{self.epochs}")

    def advance(self) -> None:
        self._bar.advance(self._task)

    def epoch(self, row: dict) -> None:
        """`row`: an entry of the history."""
        self.console.print(
            f"{self.label}epoch {row['epoch'] + 1:>{len(str(self.epochs))}}/{self.epochs}  loss {row['train_loss']:.3f}  "
            f"validation accuracy {row['val_accuracy']:6.2%}  density {row['density']:4.0%}  {row['images_per_s']:,.0f} images/s",
            highlight=False,
        )
