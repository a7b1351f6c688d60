"""The folder of a run: what it may be, and what is written there."""

import os
from pathlib import Path
from typing import Protocol

from subp.training import checkpoint, log
from subp.training.checkpoint import Checkpoint
from subp_contract.errors import UserError, require

CHECKPOINT, MODEL, LOG, TENSORBOARD = "checkpoint.safetensors", "model.safetensors", "log.csv", "tensorboard"


class Run(Protocol):
    """What is asked of a run."""

    history: list[dict]

    def checkpoint(self) -> Checkpoint: ...


class RunFiles:
    """What a run leaves in its folder after each epoch. The first checkpoint is written before the first epoch, so that
    a run can be resumed from the beginning.
    """

    def __init__(self, output: Path, run: Run, tensorboard: bool) -> None:
        _make_folder(output)
        self._output, self._run = output, run
        self._scalars = log.Scalars(output / TENSORBOARD, len(run.history)) if tensorboard else None
        if run.history:  # the run may have ended between checkpoint and log
            log.write_csv(output / LOG, run.history)
        else:
            checkpoint.save(output / CHECKPOINT, run.checkpoint())

    def write(self) -> None:
        """After an epoch."""
        checkpoint.save(self._output / CHECKPOINT, self._run.checkpoint())
        log.write_csv(self._output / LOG, self._run.history)
        if self._scalars:
            self._scalars.write(self._run.history[-1])


def checked_output(output: str | Path | None, resume: bool) -> Path | None:
    """The output folder as a path; refuses to write over an earlier run."""
    if output is None:
        require(not resume, "resuming needs the output folder that holds the checkpoint")
        return None
    earlier = (Path(output) / CHECKPOINT).exists()
    require(resume or not earlier, f"{output} already holds a checkpoint: resume it, or take another output folder")
    return Path(output)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error
    require(os.access(path, os.W_OK), f"the folder {path} is not writable")
