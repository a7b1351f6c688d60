"""Lightning: `Trainer(callbacks=[SparsityCallback(sparsifier)])`, of a sparsifier made on the module before."""

import importlib
from typing import Any

from subp.pruning.sparsifier import Sparsifier
from subp_contract.errors import UserError, require


def _base() -> Any:
    """The callbacks' class, of either name that Lightning goes by."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise UserError("Lightning is not installed: pip install lightning")


class SparsityCallback(_base()):  # type: ignore[misc]
    """Moves the masks on before each epoch, and keeps what the sparsifier knows in Lightning's checkpoints.

    Raises UserError where the Trainer trains for more epochs than the sparsifier was made for.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The masks' schedule must cover the run."""
        made_for = self.sparsifier.settings.epochs
        require(
            trainer.max_epochs is not None and 0 <= trainer.max_epochs <= made_for,
            f"the Trainer's max_epochs is {trainer.max_epochs}, and the sparsifier was made for {made_for} epochs: "
            "make them agree",
        )

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Prune and regrow."""
        self.sparsifier.step(trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        return self.sparsifier.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From one."""
        self.sparsifier.load_state_dict(state_dict)
