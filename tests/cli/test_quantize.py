"""`subp quantize`, and what the other commands make of its file."""

import json

import numpy as np
import pytest
import torch

from subp import cli, models
from subp.data.loaders import digits
from subp.training import checkpoint
from subp.training.checkpoint import Checkpoint

SMALL = """
from torch import nn


def small(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a small network, and what it is quantised to."""
    path = tmp_path_factory.mktemp("quantised")
    torch.manual_seed(0)
    (path / "small.py").write_text(SMALL)
    about = {"name": f"{path}/small.py:small", "num_classes": 10, "in_channels": 1}
    data = digits(size=16)
    metadata = {"architecture": about, "classes": data.classes, "preprocessing": data.preprocessing.as_dict()}
    network = models.create(**about)
    checkpoint.save(path / "net.safetensors", Checkpoint(metadata=metadata, model=network.state_dict()))
    return path


def run(*arguments) -> int:
    return cli.exit_code([str(each) for each in arguments])


def refused(capsys, *arguments) -> str:
    """The one sentence that a command ends with."""
    assert run(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "Traceback" not in printed
    return printed


def test_quantised_compiled_run_and_inspected(folder, capsys):
    quantise = (
        "quantize",
        folder / "net.safetensors",
        "--code",
        f"{folder}/small.py:small",
        "--calibrate",
        "digits",
        "--batches",
        2,
    )
    assert run(*quantise, "-o", folder / "q.pt2") == 0
    assert "3 of 3 layers in int8, calibrated on 32 inputs" in capsys.readouterr().out
    assert run("inspect", folder / "q.pt2") == 0
    assert "conv2d int8" in capsys.readouterr().out
    assert run("compile", folder / "q.pt2", "--batch", 2, "-o", folder / "q.so") == 0
    assert "input [2, 1, 16, 16]" in capsys.readouterr().out
    x = np.random.default_rng(0).standard_normal((2, 1, 16, 16), "float32")
    np.save(folder / "x.npy", x)
    assert run("run", folder / "q.so", folder / "x.npy", "-o", folder / "y.npy") == 0
    program = torch.export.load(folder / "q.pt2")
    with torch.no_grad():
        expected = program.module()(torch.from_numpy(x)).numpy()
    assert np.abs(np.load(folder / "y.npy") - expected).max() < 0.05 * np.abs(expected).max()
    bench = ("bench", folder / "q.so", "--model", folder / "q.pt2", "--against", "torch", "--seconds", 0.1)
    assert run(*bench, "--json", folder / "b.json") == 0
    assert len(json.loads((folder / "b.json").read_text())["measurements"]) == 2


def test_what_cannot_be_calibrated_is_refused(folder, tmp_path, capsys):
    def told(data, *options):
        given = (folder / "net.safetensors", "--code", f"{folder}/small.py:small", "--calibrate", data)
        return refused(capsys, "quantize", *given, *options, "-o", tmp_path / "q.pt2")

    np.save(tmp_path / "wide.npy", np.zeros((4, 3, 16, 16), "float32"))
    np.save(tmp_path / "nan.npy", np.full((4, 1, 16, 16), np.nan, "float32"))
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 16, 16), "float32"))
    (tmp_path / "text.txt").write_text("no images")
    assert "where the network takes [N, 1, 16, 16] float32" in told(tmp_path / "wide.npy")
    assert "not finite" in told(tmp_path / "nan.npy")
    assert "holds [0, 1, 16, 16]" in told(tmp_path / "none.npy")
    assert "neither a folder or a .zip of images nor a .npy file" in told(tmp_path / "text.txt")
    assert "there is no folder or zip" in told(tmp_path / "nowhere")
    assert not (tmp_path / "q.pt2").exists()


def test_other_classes_are_refused(folder, tmp_path, capsys):
    from PIL import Image

    for name in ("1", "0"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (16, 16), 40 * number).save(tmp_path / "images" / name / f"{number}.png")
    options = ("--code", f"{folder}/small.py:small", "--calibrate", tmp_path / "images", "-o", tmp_path / "q.pt2")
    assert "has 2 classes, where the network has 10" in refused(
        capsys, "quantize", folder / "net.safetensors", *options
    )


def test_the_file_is_to_be_an_exported_program(folder, tmp_path, capsys):
    options = ("--calibrate", "digits", "-o", tmp_path / "q.so")
    assert "must end in .pt2" in refused(capsys, "quantize", folder / "net.safetensors", *options)
