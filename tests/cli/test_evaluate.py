"""`subp evaluate`: what it prints and writes is what PyTorch computes, whatever file holds the network."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from subp import cli
from subp.data.loaders import datasets
from subp.data.preprocessing import Preprocessing
from subp.data.transforms import evaluation
from subp.training import checkpoint
from subp.training.checkpoint import Checkpoint

CLASSES = ["blue", "dark", "green", "light", "mixed", "red"]


@pytest.fixture(scope="module")
def own_file(tmp_path_factory):
    """A file whose function makes a network of six classes, and weights for it."""
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels):\n"
        "    layers = nn.Conv2d(in_channels, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    return path


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 6)).eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of five small images of each class, all of them in val."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 1), ("val", 5)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def files(network, own_file, tmp_path_factory):
    """The network in every kind of file: kind -> the command line's words."""
    folder = tmp_path_factory.mktemp("files")
    about = {
        "architecture": {"name": f"{own_file}:build", "num_classes": 6, "in_channels": 3},
        "preprocessing": Preprocessing.standard(8, 3).as_dict(),
        "classes": CLASSES,
    }
    checkpoint.save(folder / "net.safetensors", Checkpoint(network.state_dict(), metadata=about))
    torch.save({"state_dict": {f"model.{name}": x for name, x in network.state_dict().items()}}, folder / "net.pth")
    code = ["--code", f"{own_file}:build"]
    net = str(folder / "net.safetensors")
    assert cli.exit_code(["compile", net, *code, "--threads", "1", "--batch", "4", "-o", str(folder / "net.so")]) == 0
    assert cli.exit_code(["export", net, *code, "-o", str(folder / "net.onnx")]) == 0
    return {
        "net.so": [str(folder / "net.so")],
        "net.safetensors": [net, *code],
        "net.pth": [str(folder / "net.pth"), *code, "--size", "8"],
        "net.onnx": [str(folder / "net.onnx")],
    }


@pytest.fixture(scope="module")
def expected(network, images):
    """(truth, logits) by PyTorch."""
    data = datasets(images, size=8)
    transform = evaluation(Preprocessing.standard(8, 3))
    items = [data.val[number] for number in range(len(data.val))]
    with torch.no_grad():
        logits = network(torch.stack([transform(image) for image, _ in items])).numpy()
    return np.array([label for _, label in items]), logits


@pytest.mark.parametrize("kind", ["net.so", "net.safetensors", "net.pth", "net.onnx"])
def test_it_tells_what_pytorch_computes(kind, files, images, expected, tmp_path, capsys):
    truth, logits = expected
    found = tmp_path / "found.json"
    assert cli.exit_code(["evaluate", *files[kind], str(images), "--json", str(found)]) == 0
    told, content = capsys.readouterr().out, json.loads(found.read_text())
    assert content["accuracy"] == (logits.argmax(1) == truth).mean() and content["images"] == len(truth) == 30
    fifth = np.sort(logits, axis=1)[:, 1]  # of six logits the five largest are from here on
    assert content["top5"] == (logits[np.arange(30), truth] >= fifth).mean()
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (truth, logits.argmax(1)), 1)
    assert content["confusion"] == counts.tolist() and content["classes"] == CLASSES
    assert content["images_per_s"] > 0 and content["versions"]["subp"] and content["cpu"]
    assert f"accuracy {content['accuracy']:.2%}" in told and "images/s in the network alone" in told
    assert all(f"{number} {name}" in told for number, name in enumerate(CLASSES))


def test_parts_are_of_the_data(files, images, tmp_path, capsys):
    for part, count in (("train", 6), ("all", 36)):
        assert cli.exit_code(["evaluate", *files["net.so"], str(images), "--part", part]) == 0
        assert f"{count} images of {images} ({part}), 6 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet18", "digits"], "resnet18 is a network's name, whose weights are random"),
        (["net.so", "digits"], "digits has 10 classes, where the network has 6"),
        (["net.pth", "digits"], "gives .* numbers an image, digits has 10 classes"),
        (["net.so", "nowhere"], "there is no folder or zip nowhere"),
        (["net.so", "digits", "--size", "9"], "is compiled for one shape: leave out --size"),
    ],
)
def test_what_does_not_fit_is_told(arguments, words, files, capsys):
    model, *others = arguments
    line = [*files.get(model, [model]), *others]
    assert cli.exit_code(["evaluate", *line]) == 2
    said = capsys.readouterr().err
    assert re.search(words, said) and said.count("\n") == 1
