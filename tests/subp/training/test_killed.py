"""A run that is killed at random moments, and resumed each time, ends as one that is not."""

import csv

import killed_run
import torch

from subp.training import checkpoint, trainer
from subp.training.run_files import MASKS


def without_speed(rows):
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]


def test_a_run_killed_again_and_again_gives_the_bits_of_the_uninterrupted_one(tmp_path):
    ended, code = killed_run.run(tmp_path, seed=0)
    assert code == 0 and len(set(ended)) > 1
    for name in (trainer.CHECKPOINT, trainer.MODEL):
        whole, parts = (checkpoint.load(tmp_path / run / name) for run in ("whole", "parts"))
        for part in ("model", "optimizer", "average"):
            ours, theirs = getattr(whole, part), getattr(parts, part)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        histories = [run.metadata.pop("history") for run in (whole, parts)]
        assert without_speed(histories[0]) == without_speed(histories[1])
        assert whole.metadata == parts.metadata
    assert checkpoint.load(tmp_path / "whole" / trainer.CHECKPOINT).average and whole.metadata["scaler"]["scale"] > 0
    logs = [list(csv.DictReader((tmp_path / run / trainer.LOG).open())) for run in ("whole", "parts")]
    assert (tmp_path / "parts" / MASKS).read_text() == (tmp_path / "whole" / MASKS).read_text()
    assert without_speed(logs[0]) == without_speed(logs[1]) and len(logs[0]) == 40
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(
        [trainer.CHECKPOINT, trainer.LOG, MASKS, trainer.MODEL]
    )
