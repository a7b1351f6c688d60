"""`subp train` and `subp inspect` as called."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from subp import models
from subp.cli.inspect import command as inspect
from subp.cli.options.method import with_preset
from subp.cli.train import command as train
from subp.pruning.budget.allocation import ALLOCATIONS
from subp.pruning.criteria import CRITERIA
from subp.pruning.methods import METHODS
from subp.pruning.scoring import SCORINGS
from subp.training import checkpoint
from subp.training.config import Config
from subp_contract.errors import UserError

RUN = ["digits", "--model", "resnet20", "--size", "8", "--batch-size", "256", "--epochs", "2", "--threads", "1"]


def call(command, *arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "digits"
    return output, call(train, *RUN, "--exclude", "layer1.*", "-o", output)


def test_training_tells_each_epoch_what_stayed_dense_and_where_the_result_is(run):
    output, result = run
    assert result.exit_code == 0
    assert "conv1: stem (first convolution)" in result.output
    assert "layer1.0.conv1, layer1.0.conv2, layer1.1.conv1 and 3 more: excluded by 'layer1.*'" in result.output
    assert "epoch 2/2" in result.output and "density  25%" in result.output
    assert str(output / "model.safetensors") in result.output
    left = ["checkpoint.safetensors", "config.yaml", "log.csv", "masks.csv", "model.safetensors"]
    assert sorted(p.name for p in output.iterdir()) == left


def test_resuming_takes_the_runs_own_settings_and_refuses_others(run):
    output, _ = run
    result = call(train, "digits", "--resume", "-o", output)
    assert "the run is finished: its 2 epochs are done" in result.output
    refused = r"the run to resume has --lr 0.1 \(not --lr 0.2\): resume it with its own options"
    with pytest.raises(UserError, match=refused):
        call(train, "digits", "--resume", "-o", output, "--lr", "0.2")


def test_resuming_runs_no_file_that_only_the_checkpoint_names(run, tmp_path):
    held = checkpoint.load(run[0] / "checkpoint.safetensors")
    held.metadata["config"]["model"] = f"{tmp_path}/mine.py:net"
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    checkpoint.save(tmp_path / "checkpoint.safetensors", held)
    for how in ("--resume", "--auto-resume"):
        with pytest.raises(UserError, match=r"run only if you name it: add --model .*mine\.py:net"):
            call(train, "digits", how, "-o", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "options, told",
    [
        (["--sparsity", "0.75"], "no --sparsity (not --sparsity 0.75)"),
        (
            ["--target-macs", "0.5", "--hard"],
            "no --target-macs (not --target-macs 0.5) and neither --soft nor --hard (not --hard)",
        ),
        (["--exclude", "*.conv1", "--exclude", "fc"], "--exclude layer1.* (not --exclude *.conv1 --exclude fc)"),
        (["--channels-last", "--size", "16"], "no --channels-last (not --channels-last) and --size 8 (not --size 16)"),
    ],
)
def test_what_differs_from_the_run_to_resume_is_told_as_it_is_typed(run, options, told):
    with pytest.raises(UserError) as refused:
        call(train, "digits", "--resume", "-o", run[0], *options)
    assert str(refused.value) == f"the run to resume has {told}: resume it with its own options"


def test_of_a_finished_run_only_that_is_told(tmp_path):
    options = [*RUN, "--epochs", "1", "--rearrange", "--auto-resume", "-o", tmp_path]
    begun = call(train, *options).output.splitlines()
    assert any(line.startswith("rearranges the filters") for line in begun)
    again = call(train, *options).output.splitlines()
    assert again == ["the run is finished: its 1 epochs are done", begun[-1]]


def test_resuming_another_network_is_refused_and_resuming_where_nothing_is_begins(run, tmp_path):
    output, _ = run
    with pytest.raises(UserError, match=r"the run to resume has --model resnet20 \(not --model resnet32\)"):
        call(train, "digits", "--resume", "-o", output, "--model", "resnet32")
    assert "finished" in call(train, "digits", "--auto-resume", "-o", output).output
    with pytest.raises(UserError, match="there is no file"):
        call(train, *RUN, "--resume", "-o", tmp_path / "none")
    begun = call(train, *RUN, "--epochs", "1", "--auto-resume", "-o", tmp_path / "none")
    assert "epoch 1/1" in begun.output and "resumes" not in begun.output


def test_a_preset_fills_in_what_is_not_given_and_a_run_to_resume_must_have_it(run):
    preset = {"model": "resnet50", "sparsity": 98.5 / 128, "exclude": ()}
    assert with_preset("resnet50-1.0g", {"n": 8}) == preset | {"n": 8}
    assert with_preset("resnet50-1.0g", {"sparsity": 0.5}) == preset | {"sparsity": 0.5}
    assert "sparsity" not in with_preset("resnet50-1.0g", {"target_macs": 0.25})
    with pytest.raises(UserError, match=r"the run to resume has --model resnet20 \(not --model resnet50\)"):
        call(train, "digits", "--resume", "-o", run[0], "--exclude", "layer1.*", "--preset", "resnet50-1.0g")


def test_broken_images_are_named_once_where_they_are_left_out(tmp_path):
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * number).save(path)
    path.write_bytes(path.read_bytes()[:40])
    run = [tmp_path / "images", *RUN[1:], "--size", "8"]
    with pytest.raises(UserError, match=f"cannot read the image b/{path.name} in .*images"):
        call(train, *run, "-o", tmp_path / "ends")
    result = call(train, *run, "-o", tmp_path / "goes on", "--skip-broken")
    assert result.output.count("skipped: cannot read the image b/11.png") == 1 and "epoch 2/2" in result.output


@pytest.mark.parametrize("file", ["model.safetensors", "checkpoint.safetensors"])
def test_inspecting_shows_every_layer(run, file):
    output, _ = run
    result = call(inspect, output / file)
    assert result.exit_code == 0
    assert "resnet20, 10 classes, input 1x8x8, epoch 2" in result.output
    line = next(line for line in result.output.splitlines() if "layer3.2.conv2" in line)
    assert re.split(r"  +", line)[1:6] == ["Conv2d", "64x64x3x3", "16", "25.0%", "yes"]


def test_wrong_input_is_told_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="there is no folder or zip nowhere"):
        call(train, "nowhere", "-o", tmp_path / "a")
    with pytest.raises(UserError, match="there is no model"):
        call(train, "digits", "--model", "resnet21", "-o", tmp_path / "b")
    with pytest.raises(UserError, match=r"sparsity = 1.0 is not in \[0, 1\)"):
        call(train, "digits", "--model", "resnet20", "--sparsity", "1", "-o", tmp_path / "c")
    with pytest.raises(UserError, match="the network cannot take images of 1x8x8"):
        call(train, "digits", "--model", "alexnet", "--size", "8", "-o", tmp_path / "d")
    assert call(train, "digits", "--size", "0", "-o", tmp_path / "e").exit_code == 2
    with pytest.raises(UserError, match=r"there is no file .*none.safetensors"):
        call(inspect, tmp_path / "none.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_inspecting_a_checkpoint_without_preprocessing_leaves_out_the_macs(tmp_path):
    about = {"architecture": {"name": "resnet20", "num_classes": 4, "in_channels": 1}}
    state = models.create(**about["architecture"]).state_dict()
    checkpoint.save(tmp_path / "c.safetensors", checkpoint.Checkpoint(state, metadata=about))
    result = call(inspect, tmp_path / "c.safetensors")
    assert result.exit_code == 0 and "layer3.2.conv2" in result.output


def test_training_begins_with_the_weights_given(tmp_path):
    start = models.create("resnet20", 10, in_channels=1)
    start.fc.bias.data.fill_(7.0)
    torch.save(start.state_dict(), tmp_path / "start.pth")
    options = [*RUN, "--epochs", "1", "--lr", "1e-9", "--weights", tmp_path / "start.pth", "-o", tmp_path / "run"]
    call(train, *options)
    trained = checkpoint.load_model(tmp_path / "run" / "model.safetensors")[0]
    assert torch.allclose(trained.fc.bias, torch.full((10,), 7.0), atol=1e-4)
    with pytest.raises(UserError, match="only a new run"):
        call(train, *options, "--resume")
    assert "finished" in call(train, *options, "--auto-resume").output


def test_the_recipes_of_the_documentation_are_accepted_as_written():
    lines = (Path(__file__).parents[3] / "docs" / "training.md").read_text().splitlines()
    lines = [line for line in lines if line.startswith("    subp train") and "--weights" not in line]
    recipes = [shlex.split(line, comments=True) for line in lines]
    assert len(recipes) == 4
    for _, _, *words in recipes:
        given = train.make_context("train", words).params
        config = Config.of({name: value for name, value in given.items() if name in Config.defaults()})
        assert config.epochs >= 90


def test_the_choices_offered_are_those_there_are():
    choices = {option.name: option.type.choices for option in train.params if hasattr(option.type, "choices")}
    assert list(choices["criterion"]) == list(CRITERIA)
    assert list(choices["scoring"]) == list(SCORINGS)
    assert list(choices["allocation"]) == list(ALLOCATIONS)
    assert list(choices["method"]) == ["dense", *METHODS]
