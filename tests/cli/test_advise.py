"""`subp advise`: predictions that fall with sparsity, accuracies beside them."""

import csv
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from subp import models
from subp.cli.advise import command
from subp.deployment.advice import Choice, lowered, pareto, predicted, with_zeros
from subp.pruning.block_masks import to_blocks
from subp_contract.errors import UserError
from tvm_sched import targets

TARGET = replace(targets.get("x86-avx512"), cores=1)
FEW = ["--target", "x86-avx512", "--size", "32", "--n", "8,16", "--sparsity", "50,90"]


def call(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def choices(sizes, sparsities, ghz=None):
    model = models.create("resnet20", 10)
    made = lowered(model, torch.zeros(1, 3, 32, 32), TARGET, sizes, sparsities)
    return predicted(made, TARGET, ghz, None)


def test_predictions_fall_with_sparsity_and_with_the_frequency():
    dense, *pruned = choices([16], [0.5, 0.75, 0.9], 1.0)
    times = [choice.ms for choice in pruned]
    assert dense.ms > times[0] > times[1] > times[2]
    assert not any(choice.measured for choice in (dense, *pruned))
    assert choices([], [], 2.0)[0].ms == pytest.approx(dense.ms / 2)


def test_zeros_are_the_choices_own():
    model = models.create("resnet20", 10)
    model.layer2[1].conv1.weight.data.zero_()  # as a checkpoint may have them
    pruned = with_zeros(model, 8, 0.75)
    kept = to_blocks(pruned.layer2[1].conv1.weight, 8).ne(0).any(2)
    assert kept.sum(1).tolist() == [8] * 4 and not pruned.layer1[0].conv1.weight.isnan().any()
    assert pruned.conv1.weight.all() and not model.layer2[1].conv1.weight.any()


def test_the_table_has_a_line_a_sparsity_and_a_picture_is_written(tmp_path):
    result = call("resnet20", *FEW, "--picture", tmp_path / "a.png")
    assert result.exit_code == 0
    assert "1x8" in result.output and "1x16" in result.output and "90%" in result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def results(path, *rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("network", "method", "variant", "n", "sparsity", "accuracy"), *rows])
    return path


def test_mean_accuracies_stand_beside_the_predictions(tmp_path):
    file = results(
        tmp_path / "r.csv",
        ("resnet20", "dense", "", 16, 0.0, 0.9),
        ("resnet20", "subp", "", 16, 0.5, 0.8),
        ("resnet20", "subp", "", 16, 0.5, 0.7),
        ("resnet20", "subp", "tau 1", 16, 0.9, 0.1),
        ("resnet20", "magnitude", "", 16, 0.9, 0.2),
    )
    result = call("resnet20", *FEW, "--results", file, "--picture", tmp_path / "a.png")
    assert "75.0%" in result.output and "90.0%" in result.output
    assert "10.0%" not in result.output and "20.0%" not in result.output
    with pytest.raises(UserError, match="has no row of the network 'resnet32'"):
        call("resnet32", *FEW, "--results", file)


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"\x89PNG\xff", b"network,method,n,sparsity,accuracy\nresnet20,subp,x,0.5,1\n"]
)
def test_another_file_than_one_of_results_is_told(content, tmp_path):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(UserError, match="is no CSV file of results"):
        call("resnet20", *FEW, "--results", tmp_path / "r.csv")


def test_the_front_holds_what_nothing_faster_reaches():
    points = [(None, 10, 0.9), (16, 5, 0.85), (8, 6, 0.84), (32, 4, 0.7), (4, 3, None)]
    choices = [Choice(n, 0.5, ms, accuracy=accuracy) for n, ms, accuracy in points]
    assert [choice.n for choice in pareto(choices)] == [32, 16, None]


def test_wrong_input_is_told():
    with pytest.raises(UserError, match="sparsities are per cent below 100, not 100"):
        call("resnet20", "--sparsity", "100")
    with pytest.raises(UserError, match="there is no model"):
        call("resnet21", *FEW)
