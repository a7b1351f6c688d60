"""What README and docs show in Python runs as it stands, a page from top to bottom, on data that is made here."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import tvm_sched

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
SMALLER = {  # what takes hours, or is large
    "training.md": (("resnet18", "resnet20"), ("epochs=90", "epochs=1, batch_size=4")),
    "inputs_outputs.md": (("224", "8"),),
}
DETECTOR = """
class Detector(torch.nn.Module):
    def forward(self, image, boxes, mask):
        return {"out": image * mask, "aux": (boxes[0] + boxes[1],)}
detector, image, mask = Detector().eval(), torch.randn(1, 3, 4, 4), torch.randn(4, 4)
boxes, more = torch.randn(1, 4), torch.randn(1, 4)
"""
CONVERTER = """
from tvm import relax
from tvm_sched.frontend.aten.converter import CONVERTERS, converts
from tvm_sched.frontend.aten.pointwise import *
from tvm_sched.frontend.aten.pointwise import Builder, Operand, computed, libm
CONVERTERS.pop("hypot", None)
"""
LINEAR = "model, x = torch.nn.Linear(32, 16).eval(), torch.randn(1, 32)"
ONNX = """
import onnx
from onnx import helper, numpy_helper
x = torch.randn(1, 32)
weight = numpy_helper.from_array(torch.randn(32, 16).numpy(), "weight")
ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size]) for name, size in (("x", 32), ("y", 16))]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "net", ends[:1], ends[1:], [weight])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), "net.onnx")
"""
BEFORE = {  # what a page takes as known
    "inputs_outputs.md": DETECTOR,
    "extending.md": CONVERTER,
    "tuning.md": LINEAR,
    "onnx.md": ONNX,
}


@pytest.fixture(autouse=True)
def own_methods():
    """A page may register some."""
    from subp.pruning.methods import METHODS

    before = dict(METHODS)
    yield
    for name in METHODS.keys() - before.keys():
        del METHODS[name]


@pytest.fixture
def folder(tmp_path) -> Path:
    """With images of two classes in DATA."""
    for place in range(16):
        path = tmp_path / "DATA" / f"class{place % 2}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 16 * place, np.uint8)).save(path)
    return tmp_path


def network() -> nn.Module:
    """For images [B, 3, H, W]."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if SNIPPET.search(page.read_text())], ids=lambda page: page.name
)
def test_a_page_runs_from_top_to_bottom(page, folder, monkeypatch):
    from tvm_sched.frontend.aten.converter import CONVERTERS

    monkeypatch.chdir(folder)
    monkeypatch.setitem(CONVERTERS, "hypot", CONVERTERS["hypot"])  # which a page defines anew
    model = network()
    names = {"torch": torch, "tvm_sched": tvm_sched, "model": model, "net": model, "x": torch.randn(1, 3, 8, 8)}
    names["batches"] = names["calibration"] = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    exec(BEFORE.get(page.name, ""), names)
    for snippet in SNIPPET.findall(page.read_text()):
        for given, smaller in SMALLER.get(page.name, ()):
            snippet = snippet.replace(given, smaller)
        exec(compile(snippet, page.name, "exec"), names)
    if page.name in ("README.md", "python.md"):
        expected = names["model"].eval()(names["x"][:1])
        assert abs(names["y"] - expected).max() < 1e-4
