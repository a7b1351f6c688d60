"""The folder of a run: what it may be, what is written there, and which run it was."""

import json
import os
from pathlib import Path
from typing import Protocol

from torch import nn

from subp.data.fingerprint import fingerprint
from subp.data.loaders import Data
from subp.training import checkpoint, log
from subp.training.checkpoint import Checkpoint
from subp.training.config import MACHINE, Config, as_typed, up_to_date
from subp_contract.errors import UserError, require
from subp_contract.files import write_atomically

CHECKPOINT, MODEL, LOG, TENSORBOARD = "checkpoint.safetensors", "model.safetensors", "log.csv", "tensorboard"
MASKS, SETTINGS = "masks.csv", "config.yaml"


class Run(Protocol):
    """What is asked of a run."""

    history: list[dict]
    churn: log.Churns

    def checkpoint(self) -> Checkpoint: ...


class RunFiles:
    """What a run leaves in its folder after each epoch. The first checkpoint is written before the first epoch, so that
    a run can be resumed from the beginning.
    """

    def __init__(self, output: Path, run: Run, tensorboard: bool, settings: str | None = None) -> None:
        _make_folder(output)
        if settings is not None:
            write_atomically(output / SETTINGS, settings.encode())
        self._output, self._run = output, run
        self._scalars = log.Scalars(output / TENSORBOARD, len(run.history)) if tensorboard else None
        if run.history:  # the run may have ended between checkpoint and log
            self._write_logs()
        else:
            checkpoint.save(output / CHECKPOINT, run.checkpoint())

    def write(self) -> None:
        """After an epoch."""
        checkpoint.save(self._output / CHECKPOINT, self._run.checkpoint())
        self._write_logs()
        if self._scalars:
            self._scalars.write(self._run.history[-1])

    def _write_logs(self) -> None:
        log.write_csv(self._output / LOG, self._run.history)
        if self._run.churn:
            log.write_csv(self._output / MASKS, log.masks_rows(self._run.churn))


def checked_output(output: str | Path | None, resume: bool) -> Path | None:
    """The output folder as a path; refuses to write over an earlier run."""
    if output is None:
        require(not resume, "resuming needs the output folder that holds the checkpoint")
        return None
    earlier = (Path(output) / CHECKPOINT).exists()
    require(resume or not earlier, f"{output} already holds a checkpoint: resume it, or take another output folder")
    return Path(output)


def settings_of(config: Config, model: nn.Module | None) -> dict:
    """The run's, JSON-able; model: the user's own, if it is one."""
    return config.as_dict() | ({"model": type(model).__name__} if model else {})


def images_of(data: Data) -> dict:
    """Which the run trains and validates on, JSON-able."""
    return {"training": list(fingerprint(data.train)), "validation": list(fingerprint(data.val))}


def require_same_run(saved: dict, data: Data, config: Config, model: nn.Module | None) -> None:
    """Raises UserError, naming all options that differ, where the run whose checkpoint has this metadata is another."""
    # A setting that is younger than the checkpoint was what it is by default.
    was = Config.defaults() | up_to_date(saved["config"]) | {"size": saved["preprocessing"]["size"]}
    now = settings_of(config, model) | {"size": data.preprocessing.size}
    others = [
        f"{as_typed(name, was[name])} (not {as_typed(name, now[name])})"
        for name in now
        if name not in MACHINE and json.dumps(was[name]) != json.dumps(now[name])
    ]
    require(not others, f"the run to resume has {' and '.join(others)}: resume it with its own options")
    for name, own in json.loads(json.dumps(data.preprocessing.as_dict())).items():
        trained_on = saved["preprocessing"].get(name)
        require(
            trained_on == own, f"the run to resume was trained on images of {name} = {trained_on}, this data has {own}"
        )
    require(saved["classes"] == data.classes, "the run to resume was trained on other classes than this data has")
    for part, images in images_of(data).items():
        had = saved.get("data", {}).get(part, images)  # none in checkpoints older than this entry
        require(
            had == images,
            f"the run to resume has {had[0]} {part} images, here are {images[0]}, not the same ones: resume it with "
            "its own, or begin another run with its weights",
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error
    require(os.access(path, os.W_OK), f"the folder {path} is not writable")
