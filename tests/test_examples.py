"""Every file of examples/ runs as it stands, and what it prints and writes is right."""

import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_sched
from subp_contract import pattern
from tvm_sched.deploy import toolchain
from tvm_sched.signature import check_inputs

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
CHECKED = {"own_loop", "timm_network", "pruned_onnx", "two_processes", "vision_transformer", "int8", "board"}
CHECKED |= {"drawn_shapes", "segmentation", "detection", "ultralytics_yolo"}


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs an example in an empty folder and gives what it prints."""

    def told(name: str, *arguments: object) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capfd.readouterr().out

    return told


def number(pattern_of_it: str, text: str) -> float:
    """The number that the text has at the pattern's one group."""
    found = re.search(pattern_of_it, text)
    assert found, text
    return float(found[1])


def test_all_are_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == CHECKED
    named = set(re.findall(r"\]\((\w+)\.py\)", (EXAMPLES / "README.md").read_text()))
    assert named == CHECKED


def test_a_loop_of_ones_own_learns_and_compiles(run):
    told = run("own_loop", "--epochs", 2)
    assert number(r"\n75% pruned: ([\d.]+)%", "\n" + told) > 60 and number(r"^0% pruned: ([\d.]+)%", told) > 60
    layers = tvm_sched.load("own_loop.so").manifest["layers"]
    assert [layer["density"] for layer in layers] == [1, 0.25, 0.25, 1]


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is an extra")
def test_a_network_of_timm(run):
    told = run("timm_network", "resnet18", "--size", 32)
    assert re.search(r"layer4.1.conv2 +1x16 +25%", told)
    assert number(r"dense: ([\d.]+) ms", told) > 0 and number(r"sparse: ([\d.]+) ms", told) > 0


def test_a_pruned_file_of_onnx(run):
    told = run("pruned_onnx")
    assert len(re.findall("density 0.25 .* 1x(8|16)", told)) == 2  # two block rows as one, where that is faster
    assert number("largest difference: (.*)", told) < 1e-5


def test_a_vision_transformer(run):
    told = run("vision_transformer")
    assert re.search(r"mlp.0 +25%", told) and re.search(r"in_proj_weight +25%|self_attention +25%", told)
    assert number("largest difference: (.*)", told) < 1e-4


@pytest.mark.parametrize(("name", "chance"), [("segmentation", 25), ("detection", 0)])
def test_tasks_besides_classification(run, name, chance):
    told = run(name, "--steps", 16)
    dense, sparse = (number(rf"(?m)^{share} pruned: ([\d.]+)%", told) for share in ("0%", "75%"))
    assert dense > chance and sparse > chance
    assert number(r"compiled: ([\d.]+)%", told) == pytest.approx(sparse, abs=0.5)
    assert number("largest difference (.*)", told) < 1e-4


def test_drawn_shapes_are_where_their_boxes_are(run):
    run("drawn_shapes", "shapes", "--size", 32, "--train", 3, "--val", 2)
    assert len(list(Path("shapes/images/train").iterdir())) == 3 and len(list(Path("shapes/labels/val").iterdir())) == 2
    from drawn_shapes import draw

    drawn, lines = draw(3, 32, seed=0), Path("shapes/labels/train/1.txt").read_text().splitlines()
    for side, line in enumerate(lines):
        kind, *box = map(float, line.split())
        x, y, width, height = (32 * value for value in box)
        corners = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        torch.testing.assert_close(corners, drawn.boxes[1, side], atol=1e-3, rtol=0)
        assert kind == drawn.classes[1, side]
        half = drawn.pixels[1][:, 16 * side : 16 * side + 16]
        rows, columns = torch.where(half == 1 + kind)
        assert rows.min() >= y - height / 2 and rows.max() < y + height / 2
        assert columns.min() + 16 * side >= x - width / 2 and columns.max() + 16 * side < x + width / 2
        assert len(rows) > width * height / 3


@pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is AGPL-3.0, and installed by hand alone")
def test_a_detector_of_ultralytics(run):
    told = run("ultralytics_yolo", "--epochs", 2, "--images", 16, "--size", 64)
    assert number(r"75 %, 1x16: mAP50 ([\d.]+)", told) >= 0
    assert number(r"multiply-adds kept: ([\d.]+)%", told) < 60


def test_eight_bits(run):
    told = run("int8")
    classes = re.search(r"float32: class (\d); int8: class (\d)", told)
    assert classes and classes[1] == classes[2]
    assert number(r"difference: ([\d.]+)%", told) < 10
    assert tvm_sched.load("int8.so").manifest["precision"] == "int8"


def test_two_processes_train_one_network(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [str(EXAMPLES / "two_processes.py"), "--epochs", "1"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    weights = torch.load(tmp_path / "two_processes.pth", weights_only=True)
    masked = {name: weight.numpy() for name, weight in weights.items() if weight.ndim == 4}
    found = {name: pattern.find(pattern.occupancy(weight)) for name, weight in masked.items()}
    sparse = [each for each in found.values() if each]
    assert len(sparse) >= 18 and all(each.uniform for each in sparse)


def test_a_board_and_a_program_in_cpp(run, tmp_path, monkeypatch):
    # zig first makes a library of C++ for the CPU, for a minute; the program below takes g++ anyway.
    monkeypatch.setattr(toolchain, "program_compiler", lambda arch, cc=None: ["g++"])
    assert "board: check ok" in run("board")
    made = ["make", "-C", str(EXAMPLES / "cpp"), f"BUNDLE={tmp_path / 'board'}", f"OUTPUT={tmp_path / 'classify'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    build = [*made, f"PYTHON={sys.executable}", "CXXFLAGS=-O0"]
    subprocess.run(build, check=True, env=environment, capture_output=True)
    said = subprocess.run(["./classify", "board"], check=True, capture_output=True, text=True).stdout

    artifact = tvm_sched.load("board.so")
    (x,) = check_inputs(artifact.signature.inputs, artifact.manifest["check"]["seed"])
    scores = artifact(x)[0]
    assert int(number(r"class (\d)", said)) == np.argmax(scores)
    assert number("score (.*);", said) == pytest.approx(scores.max(), abs=2e-6)
    wrong = subprocess.run(["./classify", "nowhere"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, "classify: there is no file nowhere/network.txt\n")
