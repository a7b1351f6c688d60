"""`subp advise`: a table of predictions, accuracies beside them, and a picture."""

import csv

import pytest
import small_network
from click.testing import CliRunner

from subp import models
from subp.cli.advise import command
from subp_contract.errors import UserError

FEW = ["--target", "x86-avx512", "--size", "16", "--n", "8,16", "--sparsity", "0.5,0.9"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(models.OWN, "small", small_network.small)


def call(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_the_table_has_a_line_a_sparsity_and_a_picture_is_written(tmp_path):
    result = call("small", *FEW, "--picture", tmp_path / "a.png")
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
        ("small", "dense", "", 16, 0.0, 0.9),
        ("small", "subp", "", 16, 0.5, 0.8),
        ("small", "subp", "", 16, 0.5, 0.7),
        ("small", "subp", "tau 1", 16, 0.9, 0.1),
        ("small", "magnitude", "", 16, 0.9, 0.2),
    )
    result = call("small", *FEW, "--n", "16", "--results", file, "--picture", tmp_path / "a.png")
    assert "75.0%" in result.output and "90.0%" in result.output
    assert "10.0%" not in result.output and "20.0%" not in result.output
    with pytest.raises(UserError, match="has no row of the network 'resnet32'"):
        call("resnet32", *FEW, "--results", file)


@pytest.mark.parametrize(
    "content", [b"hello", b"a,b\n1,2\n", b"\x89PNG\xff", b"network,method,n,sparsity,accuracy\nresnet20,subp,x,0.5,1\n"]
)
def test_another_file_than_one_of_results_is_told(content, tmp_path):
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(UserError, match="is no CSV file of results"):
        call("small", *FEW, "--results", tmp_path / "r.csv")


def test_wrong_input_is_told():
    for given, words in (("75", "75 is no fraction from 0 to below 1; write 0.75 for 75 %"), ("a", "not a list of fr")):
        result = call("resnet20", "--sparsity", given)
        assert result.exit_code == 2 and words in result.output
    with pytest.raises(UserError, match=r"neither a file nor a network resnet21 .did you mean resnet"):
        call("resnet21", *FEW)
