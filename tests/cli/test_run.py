"""`subp run` and `subp inspect` of networks with several inputs and outputs, and each wrong file told."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tvm_sched
from subp import cli
from subp.cli.inspect import compiled_table
from tvm_sched.signature import check_inputs

NAMES = ("image", "boxes_0", "boxes_1", "flag")


class Detects(nn.Module):
    def forward(self, image, boxes, *, flag):
        return {"maps": image * 2, "boxes": torch.cat(boxes), "any": flag & (image > 0)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """(artifact, its file)"""
    path = tmp_path_factory.mktemp("several") / "net.so"
    boxes = [torch.tensor([[2, 5]]), torch.tensor([[3, 4]])]
    artifact = tvm_sched.compile(
        Detects(), (torch.ones(1, 2, 3), boxes), {"flag": torch.tensor([[True], [False]])}, threads=1
    )
    artifact.save(path)
    return artifact, path


@pytest.fixture
def given(network):
    """Inputs by name."""
    return dict(zip(NAMES, check_inputs(network[0].signature.inputs, 3), strict=True))


def refused(arguments, capsys):
    """The sentence by which a command refuses."""
    assert cli.exit_code([str(each) for each in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_several_in_several_out(network, given, tmp_path):
    np.savez(tmp_path / "x.npz", **dict(reversed(given.items())))
    arguments = ["run", str(network[1]), str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")]
    assert cli.exit_code(arguments) == 0
    made = np.load(tmp_path / "y.npz")
    assert made.files == ["maps", "boxes", "any"]
    np.testing.assert_array_equal(made["maps"], given["image"] * 2)
    np.testing.assert_array_equal(made["boxes"], np.concatenate([given["boxes_0"], given["boxes_1"]]))
    np.testing.assert_array_equal(made["any"], given["flag"] & (given["image"] > 0))


def test_outputs_that_are_no_classes_are_told_in_numbers(network, given, tmp_path, capsys):
    given["image"][:] = [[[0, 1, 2], [-1, 0, 4]]]
    given["boxes_0"][:], given["boxes_1"][:] = 2, 4
    np.savez(tmp_path / "x.npz", **given)
    assert cli.exit_code(["run", str(network[1]), str(tmp_path / "x.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "'maps', [1, 2, 3] of float32, min -2, mean 2, max 8",
        "'boxes', [2, 2] of int64, min 2, mean 3, max 4",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.pop("flag"), "lacks the input 'flag'; the network takes image, boxes_0, boxes_1, flag"),
        (lambda x: x.update(more=np.ones(1)), "holds 'more', which is no input of the network; it takes image"),
        (lambda x: x.update(image=np.ones((1, 2, 4), "float32")), "input 'image' must be .*[1, 2, 3] of float32"),
        (lambda x: x.update(boxes_1=np.ones((1, 2))), "of int64, not [1, 2] of float64"),
    ],
)
def test_wrong_inputs_are_told(network, given, tmp_path, capsys, change, words):
    change(given)
    np.savez(tmp_path / "x.npz", **given)
    said = refused(["run", network[1], tmp_path / "x.npz"], capsys)
    assert all(part in said for part in words.split(".*"))


def test_other_files_are_told(network, given, tmp_path, capsys):
    np.save(tmp_path / "x.npy", given["image"])
    assert "by these names in a .npz file" in refused(["run", network[1], tmp_path / "x.npy"], capsys)
    np.savez(tmp_path / "x.npz", **given)
    said = refused(["run", network[1], tmp_path / "x.npz", "-o", tmp_path / "y.npy"], capsys)
    assert "has the outputs maps, boxes, any: give -o a .npz file" in said and not (tmp_path / "y.npy").exists()
    for content in (b"", b"PK\x03\x04 cut off", (tmp_path / "x.npz").read_bytes()[:-30]):
        (tmp_path / "cut.npz").write_bytes(content)
        assert "cut.npz is not a .npz file of numbers" in refused(["run", network[1], tmp_path / "cut.npz"], capsys)
    (tmp_path / "x.png").write_bytes(b"no matter")
    assert "takes 4 inputs, not an image: give a .npz file" in refused(["run", network[1], tmp_path / "x.png"], capsys)


def test_inspect_lists_inputs_and_outputs(network):
    title = compiled_table(network[1]).title
    assert title.splitlines()[1:] == [
        r"input 'image', \[1, 2, 3] of float32".replace("\\", ""),
        "input 'boxes_0', [1, 2] of int64",
        "input 'boxes_1', [1, 2] of int64",
        "input 'flag', [2, 1] of bool",
        "output 'maps', [1, 2, 3] of float32",
        "output 'boxes', [2, 2] of int64",
        "output 'any', [1, 2, 3] of bool",
    ]


def test_several_shapes_by_the_command(tmp_path, capsys):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    open_sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        layers,
        (torch.zeros(2, 3, 9, 9),),
        tmp_path / "net.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes=(open_sizes,),
    )
    options = ["--shape", "1x3x9x9", "--shape", "2x3x12x8", "--threads", "1", "-o", str(tmp_path / "net.so")]
    assert cli.exit_code(["compile", str(tmp_path / "net.onnx"), *options]) == 0
    assert "input [1, 3, 9, 9]; input [2, 3, 12, 8]" in capsys.readouterr().out
    title = compiled_table(tmp_path / "net.so").title
    assert "shape 2:\ninput 'input', [2, 3, 12, 8] of float32\noutput" in title
    loaded = tvm_sched.load(tmp_path / "net.so")
    for shape in ((1, 3, 9, 9), (2, 3, 12, 8)):
        x = torch.randn(shape)
        np.testing.assert_allclose(loaded(x), layers(x).detach(), rtol=0, atol=1e-5)
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 8, 8), "float32"))
    said = refused(["run", tmp_path / "net.so", tmp_path / "x.npy"], capsys)
    assert "not compiled for inputs of [1, 3, 8, 8], but for [1, 3, 9, 9], [2, 3, 12, 8]" in said


@pytest.mark.parametrize("shape", ["1x3xa", "1x3x0", "", "1x3,", "-1x3"])
def test_a_wrong_shape_on_the_command_line_is_told(tmp_path, capsys, shape):
    said = cli.exit_code(["compile", "resnet18", "--shape", shape, "-o", str(tmp_path / "net.so")])
    assert said == 2 and "is no shape, such as 1x3x224x224" in capsys.readouterr().err


def test_a_program_of_several_inputs_is_compiled_by_the_command(tmp_path, capsys):
    class Adds(nn.Module):
        def forward(self, x, y, *, scale=2):
            return x * scale + y

    args = (torch.ones(1, 3), torch.ones(4, 1, dtype=torch.int64))
    torch.export.save(torch.export.export(Adds(), args, {"scale": 5}), tmp_path / "adds.pt2")
    arguments = ["compile", str(tmp_path / "adds.pt2"), "-o", str(tmp_path / "adds.so"), "--threads", "1"]
    assert cli.exit_code(arguments) == 0
    made = tvm_sched.load(tmp_path / "adds.so")(np.full((1, 3), 2, "float32"), np.arange(4)[:, None], scale=5)
    np.testing.assert_array_equal(made, 10 + np.arange(4)[:, None] * np.ones((1, 3)))
    said = refused(["export", tmp_path / "adds.pt2", "-o", tmp_path / "adds.onnx"], capsys)
    assert "takes other inputs than one tensor" in said


class Brightest(nn.Module):
    """Logits [B, 3] of images [B, 3, 4, 4]: ten times the mean of each colour."""

    def forward(self, x):
        return 10 * x.mean((2, 3))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """(a network that tells colours, two images at a time; a folder of five images)"""
    folder = tmp_path_factory.mktemp("colours")
    artifact = tvm_sched.compile(Brightest(), torch.zeros(2, 3, 4, 4), threads=1)
    plain = {"size": 4, "resize": 4, "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}
    artifact.manifest |= {"classes": ["red", "green", "blue"], "preprocessing": plain}
    artifact.save(folder / "net.so")
    (folder / "images" / "deeper").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        name = f"deeper/{number}.png" if number == 4 else f"{number}.png"
        Image.new("RGB", (6, 6), colour).save(folder / "images" / name)
    (folder / "images" / "notes.txt").write_text("no image")
    return folder / "net.so", folder / "images"


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 51, 0), (0, 51, 255)]
BEST = ["red", "green", "blue", "red", "blue"]


def test_a_folder_of_images_is_classified_in_batches(colours, capsys):
    net, images = colours
    assert cli.exit_code(["run", str(net), str(images), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = [images / name for name in ("0.png", "1.png", "2.png", "3.png", "deeper/4.png")]
    shares = [torch.tensor(colour).div(25.5).softmax(0).max().item() for colour in COLOURS]
    assert lines == [f"{f}: {name} {share:.1%}" for f, name, share in zip(files, BEST, shares, strict=True)]


def test_classes_go_to_tables(colours, tmp_path):
    net, images = colours
    given = [str(images / "3.png"), str(images / "1.png")]
    for ending in ("csv", "json", "npy", "npz"):
        assert cli.exit_code(["run", str(net), *given, "--top", "2", "-o", str(tmp_path / f"made.{ending}")]) == 0
    with open(tmp_path / "made.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == given
    assert [(row["class_1"], row["class_2"]) for row in rows] == [("red", "green"), ("green", "red")]
    expected = torch.tensor([COLOURS[3], COLOURS[1]]).div(25.5)
    assert float(rows[0]["probability_2"]) == pytest.approx(expected.softmax(1)[0, 1].item(), abs=1e-6)
    written = json.loads((tmp_path / "made.json").read_text())
    assert written["versions"]["subp"] and written["images"][1]["file"] == given[1]
    assert [each["class"] for each in written["images"][0]["classes"]] == ["red", "green"]
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), expected, rtol=1e-6)
    assert np.load(tmp_path / "made.npz")["files"].tolist() == given


def test_what_cannot_be_run_is_told_first(network, colours, tmp_path, capsys):
    net, images = colours
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(["run", net, tmp_path / "empty"], capsys)
    assert "there is no file or folder" in refused(["run", net, tmp_path / "nowhere.png"], capsys)
    assert "must end in .npy, .npz, .csv or .json" in refused(["run", net, images, "-o", tmp_path / "o.txt"], capsys)
    assert "notes.txt: it is no image of a known format" in refused(["run", net, images / "notes.txt"], capsys)
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4), "float32"))
    several = ["run", net, tmp_path / "x.npy", tmp_path / "x.npy"]
    assert "give one file of arrays" in refused(several, capsys)
    assert "is for classes of images" in refused(["run", net, tmp_path / "x.npy", "-o", tmp_path / "y.csv"], capsys)


def test_neither_pytorch_nor_the_compiler_is_imported(network, given, tmp_path):
    """They take seconds."""
    np.savez(tmp_path / "x.npz", **given)
    code = f"from subp import cli; assert cli.exit_code(['run', {str(network[1])!r}, {str(tmp_path / 'x.npz')!r}]) == 0"
    report = (
        "import sys; print([module for module in ('torch', 'torchvision', 'tvm', 'scipy') if module in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", f"{code}; {report}"], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]" and "maps" in run.stdout


class Ranks(nn.Module):
    """What TVM computes by a function of its libraries."""

    def forward(self, x):
        return torch.sort(x, dim=-1)


def test_what_a_network_calls_of_tvms_libraries_is_there_and_pytorch_and_the_compiler_may_follow(network, tmp_path):
    """Though the runtime came without PyTorch: its tensors are taken and given."""
    x = torch.randn(2, 5)
    tvm_sched.compile(Ranks(), x, threads=1).save(tmp_path / "ranks.so")
    np.save(tmp_path / "x.npy", x.numpy())
    files = [str(tmp_path / name) for name in ("ranks.so", "x.npy", "y.npz", "again.npz")]
    code = f"""
import sys
from subp import cli
from tvm_sched import runtime_library
runtime_library.read_symbols()
assert cli.exit_code(["run", *{files[:2]}, "-o", {files[2]!r}]) == 0
assert not {{"torch", "tvm"}} & sys.modules.keys()
import tvm, torch, tvm_sched
from tvm_sched.signature import check_inputs
try:
    tvm.ir.Op.get("nothing")
except AttributeError as error:
    assert "Operator nothing is not registered" in str(error)
network = tvm_sched.load({str(network[1])!r})
inputs = [torch.from_numpy(each) for each in check_inputs(network.signature.inputs, 3)]
assert torch.equal(network.run_flat(inputs)[0], inputs[0] * 2)
assert cli.exit_code(["run", *{files[:2]}, "-o", {files[3]!r}]) == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for written in files[2:]:
        assert np.array_equal(np.load(written)["values"], x.sort(-1).values)
