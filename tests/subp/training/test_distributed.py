"""Training over two processes, gloo on CPUs; the command as torchrun starts it."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import forked_ranks
import pytest
import torch
import two_ranks
from torch.distributed.run import get_args_parser
from two_ranks import COMPILING, CONFIG, DAMAGED, DATA, SKIPPING, SPARSE, net

from subp.cli import train
from subp.training import checkpoint, trainer
from subp.training.distributed import Ranks
from subp.training.run_files import MASKS
from subp_contract.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """(folder, what each of the two processes reports)."""
    folder = tmp_path_factory.mktemp("ranks")
    forked_ranks.run(two_ranks.main, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def torchrun(*words: str) -> str:
    """What two processes print that run this."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_masks_and_weights_are_bit_equal_on_every_rank_after_every_step(ranks):
    _, (first, second) = ranks
    assert len(first["masks"]) == CONFIG.epochs and len(set(first["masks"])) > 1
    assert first["masks"] == second["masks"]
    assert first["weights"] == second["weights"]


def test_two_ranks_train_as_one_process_does_and_metrics_are_of_all_images(ranks):
    folder, (first, second) = ranks
    alone = trainer.train(DATA, CONFIG, model=net())
    together = checkpoint.load_model(folder / "run" / trainer.MODEL, net())[0]
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    for ours, theirs, others in zip(alone.history, first["history"], second["history"], strict=True):
        for name in ours.keys() - {"images_per_s"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
            assert theirs[name] == others[name]


@pytest.mark.parametrize(
    "part, images, config",
    [
        ("skipping", DAMAGED, SKIPPING),
        ("compiled", DATA, replace(COMPILING, compile=False)),
        ("kernels", DATA, replace(SPARSE, sparse_compute=None)),
    ],
    ids=["images cannot be read", "compiled", "without the zeros"],
)
def test_ranks_stay_in_step_with_what_one_process_does(ranks, part, images, config):
    alone = trainer.train(images, config, model=net()).history
    for report in ranks[1]:
        for ours, theirs in zip(alone, report[part], strict=True):
            for name in ours.keys() - {"images_per_s"}:
                assert theirs[name] == pytest.approx(ours[name], rel=1e-4), name


def test_one_rank_alone_writes(ranks):
    folder, (first, second) = ranks
    assert first["gathered"] == second["gathered"] == ["of 0", "of 1"]
    left = {trainer.CHECKPOINT, trainer.LOG, MASKS, trainer.MODEL}
    assert {path.name for path in (folder / "run").iterdir()} == left


def test_the_command_trains_with_two_processes_of_which_one_talks(tmp_path):
    options = ["--model", "resnet20", "--size", "8", "--batch-size", "512", "--epochs", "1", "--threads", "1"]
    command = str(Path(__file__).with_name("command_of_ranks.py"))
    told = torchrun("--", command, "train", "digits", "--n", "16", *options, "-o", str(tmp_path / "run"))
    assert told.count("wrappers left: 0") == 2  # else a process may abort, or never end, after its work
    assert told.count("epoch 1/1") == told.count("validation accuracy ") - 1 == 1
    assert checkpoint.load(tmp_path / "run" / trainer.CHECKPOINT).metadata["epoch"] == 1


def test_the_documented_line_leaves_every_option_to_the_command():
    options = [name for option in train.command.params for name in option.opts if name.startswith("--")]
    line = re.search("^ +torchrun (.* subp train) DATA --n 16", (ROOT / "docs/training.md").read_text(), re.MULTILINE)
    given = get_args_parser().parse_args([*line[1].split(), "DATA", *options])
    assert (given.module, given.training_script) == (True, "subp")
    assert given.training_script_args == ["train", "DATA", *options]


def test_a_batch_must_divide_among_the_ranks():
    with pytest.raises(UserError, match="batch_size = 9 does not divide among 2 processes"):
        Ranks(0, 2, torch.device("cpu")).share(9)


def test_a_batch_in_parts_trains_as_in_one_piece():
    whole, parts = (trainer.train(DATA, replace(CONFIG, accumulate=parts), model=net()) for parts in (1, 3))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert parts.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], rel=1e-5)
