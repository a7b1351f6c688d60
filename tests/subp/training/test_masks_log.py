"""masks.csv of a run, against the masks that its checkpoints hold."""

import csv

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from subp.data import loaders
from subp.training import checkpoint, trainer
from subp.training.config import Config
from subp.training.progress import Progress
from subp.training.run_files import MASKS

IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
DATA = loaders.from_tensors(IMAGES, IMAGES, list("ab"))
LAYERS = ("1", "3")


class Stopped(Exception):
    pass


class Watching(Progress):
    """Keeps the masks that the checkpoint holds after each epoch; stops after epoch `last`."""

    def __init__(self, folder, last=None):
        super().__init__(Console(quiet=True))
        self.folder, self.last, self.seen = folder, last, []

    def epoch(self, row):
        state = checkpoint.load(self.folder / trainer.CHECKPOINT).model
        self.seen.append({name: state[f"{name}.parametrizations.weight.0.mask"].numpy() for name in LAYERS})
        if row["epoch"] == self.last:
            raise Stopped


def run(folder, method, last=None, resume=False):
    torch.manual_seed(0)
    pruned = (nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), *pruned, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    config = Config(method=method, n=4, epochs=5, batch_size=4, lr=0.5, seed=2, hyperparameters={"swapped": 0.9})
    watching = Watching(folder, last)
    trainer.train(DATA, config, model=model, output=folder, resume=resume, progress=watching)
    return watching.seen


def rows(seen):
    """What masks.csv should hold after epochs of these masks: all layers, where one moved."""
    before = {name: np.ones_like(mask) for name, mask in seen[0].items()}
    expected = []
    for epoch, masks in enumerate(seen, 1):
        if any((masks[name] != before[name]).any() for name in LAYERS):
            for name in LAYERS:
                new, old = (set(map(tuple, np.argwhere(each[name]))) for each in (masks, before))
                counts = len(new), masks[name].size, len(old - new), len(new - old)
                expected.append([str(value) for value in (epoch, name, *counts)])
        before = masks
    return expected


@pytest.mark.parametrize("method, grows", [("rigl", True), ("sr-ste", True), ("one-by-n", False)])
def test_the_file_holds_how_the_checkpoints_masks_moved_and_a_resumed_run_writes_the_same(tmp_path, method, grows):
    seen = run(tmp_path / "whole", method)
    written = (tmp_path / "whole" / MASKS).read_text()
    header, *found = csv.reader(written.splitlines())
    assert header == ["epoch", "layer", "kept", "of", "pruned", "grown"]
    assert found == rows(seen) and any(int(row[4]) for row in found)
    assert any(int(row[5]) for row in found) == grows
    with pytest.raises(Stopped):
        run(tmp_path / "parts", method, last=1)
    (tmp_path / "parts" / MASKS).unlink(missing_ok=True)  # the run may have ended before it was written
    run(tmp_path / "parts", method, resume=True)
    assert (tmp_path / "parts" / MASKS).read_text() == written
