"""Hugging Face's Trainer: `Trainer(model, args, callbacks=[SparsityCallback(sparsifier)], ...)`, of a sparsifier made
on the model before.
"""

import math
from typing import Any

from subp.pruning.sparsifier import Sparsifier
from subp_contract.errors import UserError, require

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise UserError("Transformers is not installed: pip install transformers") from error


class SparsityCallback(TrainerCallback):
    """Moves the masks on before each epoch; they are part of the model's state, so of the Trainer's checkpoints.

    Raises UserError where the Trainer trains for more epochs than the sparsifier was made for.
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.sparsifier = sparsifier

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The masks' schedule must cover the run."""
        epochs, made_for = math.ceil(state.num_train_epochs), self.sparsifier.settings.epochs
        require(
            epochs <= made_for,
            f"the Trainer trains for {epochs} epochs, and the sparsifier was made for {made_for}: make them agree",
        )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prune and regrow. `state.epoch` is a fraction of steps, which may be a rounding short of a whole number."""
        self.sparsifier.step(round(state.epoch or 0))
