"""Files of exported programs open, and run nothing."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from subp.common import exported_programs
from subp_contract.errors import UserError


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def saved():
    """(the bytes of a program with a size that is an expression, an input, what it gives)."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x)[: x.shape[0] // 2].clamp(min=0) * x.shape[0]

    x, model = torch.randn(4, 3, 8, 8), Halves()
    batch = torch.export.Dim("batch", min=2, max=64)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: 2 * batch},)), file)
    return file.getvalue(), x, model(x)


def changed(content, change):
    """The archive with what `change(name, bytes)` makes of each file."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(file, "w") as after:
        for name in before.namelist():
            after.writestr(name, change(name, before.read(name)))
    return file.getvalue()


def in_graph(change):
    def rewrite(name, data):
        if not name.endswith("models/model.json"):
            return data
        description = json.loads(data)
        change(description["graph_module"]["graph"])
        return json.dumps(description).encode()

    return rewrite


def test_a_program_opens_from_bytes_and_from_a_file_with_what_lies_beside_it(saved, tmp_path):
    content, x, expected = saved
    (tmp_path / "p.pt2").write_bytes(content)
    for file in (content, tmp_path / "p.pt2"):
        assert torch.equal(exported_programs.load(file).module(check_guards=False)(x), expected)
    file = io.BytesIO()
    torch.export.save(exported_programs.load(content), file, extra_files={"note": "hello"})
    extra = {"note": ""}
    exported_programs.load(file.getvalue(), extra)
    assert extra["note"] == "hello"


def test_a_pickle_that_makes_a_file_is_refused_and_makes_none(saved, tmp_path):
    trap, archive = tmp_path / "made", io.BytesIO()
    torch.save({"x": Evil(trap)}, archive)
    content = changed(saved[0], lambda name, data: archive.getvalue() if name.endswith("inputs/model.pt") else data)
    with pytest.raises(UserError, match="it holds objects of other kinds than tensors"):
        exported_programs.load(content)
    assert not trap.exists()
    with pytest.raises(pickle.UnpicklingError):  # as torch.load itself would refuse it
        torch.load(io.BytesIO(archive.getvalue()), weights_only=True)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda graph: graph["nodes"][0].update(target="torch.os.system"), "a call of 'torch.os.system'"),
        (lambda graph: graph["nodes"][0].update(target="torch.ops.load_library"), "which is no operator"),
        (lambda graph: graph["nodes"][0].update(target="torch.ops.aten.__class__.mro"), "which is no operator"),
        (lambda graph: graph["nodes"][0].update(name="x):\n import os"), "a value named"),
        (lambda graph: sizes(graph).update(expr_str="__import__('os').system('true')"), "no arithmetic"),
        (lambda graph: sizes(graph).update(expr_str="exec(Symbol('x'))"), "no arithmetic"),
        (lambda graph: sizes(graph).update(expr_str="(lambda: 1)()"), "no arithmetic"),
    ],
)
def test_what_is_neither_operator_nor_arithmetic_nor_name_is_refused(saved, change, told):
    with pytest.raises(UserError, match=told):
        exported_programs.load(changed(saved[0], in_graph(change)))


def sizes(graph):
    """The first size in a graph that is an expression."""
    found = (
        size["as_expr"] for value in graph["tensor_values"].values() for size in value["sizes"] if "as_expr" in size
    )
    return next(found)


def test_torch_would_have_run_it(saved, tmp_path, monkeypatch):
    """Else these tests prove nothing."""
    ran = []
    monkeypatch.setattr(torch, "trap", lambda *args: ran.append(args), raising=False)
    content = changed(saved[0], in_graph(lambda graph: sizes(graph).update(expr_str="__import__('torch').trap()")))
    with pytest.raises(Exception):  # noqa: B017  whatever comes of what the trap returns
        torch.export.load(io.BytesIO(content))
    assert ran
