"""A `.pt2` is read without running code that it brings."""

import io
import json
import os
import zipfile

import pytest
import torch
from torch import nn

from subp.common import programs
from subp_contract.errors import UserError


class Attack:
    """What a pickle may be: unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Two(nn.Module):
    """A network with a symbolic size and outputs in containers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = self.conv(x)
        return {"flat": y.reshape(y.shape[0] * 2, -1), "means": [y.mean((2, 3)), torch.cat([x, x])]}


@pytest.fixture(scope="module")
def saved():
    batch = torch.export.Dim("batch", min=2, max=64)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Two().eval(), (x,), dynamic_shapes={"x": {0: batch}})
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"subp.json": '{"classes": ["a"]}'})
    return program, x, file.getvalue()


def rebuilt(content, changed):
    """The archive with the members that `changed(name, content)` gives; None leaves one out."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            member = changed(name.partition("/")[2], old.read(name))
            if member is not None:
                new.writestr(name, member)
    return made.getvalue()


def in_model(change):
    """Changes the graph's JSON in place."""

    def changed(name, content):
        if name != "models/model.json":
            return content
        model = json.loads(content)
        change(model)
        return json.dumps(model).encode()

    return changed


def test_a_program_is_what_torch_reads(saved):
    program, x, content = saved
    read, extra = programs.read("net.pt2", content)
    assert json.loads(extra["subp.json"]) == {"classes": ["a"]}
    given, wanted = (torch.utils._pytree.tree_leaves(each.module()(x)) for each in (read, program))
    assert len(given) == 3 and all(map(torch.equal, given, wanted))


def first_node(model):
    return model["graph_module"]["graph"]["nodes"][0]


def sizes(model):
    return next(iter(model["graph_module"]["graph"]["sym_int_values"].values()))["as_expr"]


ATTACKS = {
    "operator": lambda model: first_node(model).update(target="torch.os.system"),
    "library": lambda model: first_node(model).update(target="torch.ops.load_library"),
    "file": lambda model: first_node(model).update(target="torch.ops.aten.from_file.default"),
    "size": lambda model: sizes(model).update(expr_str="__import__('os').mkdir('FOLDER')"),
    "size by attribute": lambda model: sizes(model).update(expr_str="Symbol.__class__"),
    "power": lambda model: sizes(model).update(expr_str="Pow(9, Pow(9, Pow(9, 9)))"),
    "argument": lambda model: model["graph_module"]["graph"]["inputs"][0]["as_tensor"].update(
        name="x=__import__('os').mkdir('FOLDER')"
    ),
    "structure": lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(
        in_spec=json.dumps([1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}])
    ),
}


@pytest.mark.parametrize("change", ATTACKS.values(), ids=ATTACKS)
def test_a_graph_that_could_run_code_is_refused(saved, change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"net\.pt2 could run code when it is opened: its"):
        programs.read("net.pt2", rebuilt(saved[2], in_model(change)))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["inputs", "weight", "library", "old"])
def test_pickles_and_libraries_are_refused(saved, where, tmp_path):
    attack = io.BytesIO()
    torch.save(Attack(tmp_path / "made"), attack)

    def changed(name, content):
        if where == "inputs" and name.startswith("data/sample_inputs"):
            return attack.getvalue()
        if where == "weight" and name.endswith("weights_config.json"):
            config = json.loads(content)
            next(iter(config["config"].values())).update(use_pickle=True, path_name="weight_0")
            return json.dumps(config).encode()
        return attack.getvalue() if where == "weight" and name == "data/weights/weight_0" else content

    content = rebuilt(saved[2], changed)
    if where in ("library", "old"):
        buffer = io.BytesIO(content)
        with zipfile.ZipFile(buffer, "a") as archive:
            folder = archive.namelist()[0].partition("/")[0]
            archive.writestr(
                folder + {"library": "/data/aotinductor/model/x.so", "old": "/data/weights/model.pt"}[where], b""
            )
        content = buffer.getvalue()
    with pytest.raises(UserError, match="could run code"):
        programs.read("net.pt2", content)
    assert not (tmp_path / "made").exists()


def test_members_that_grow_and_half_a_file_are_refused(saved):
    compressed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved[2])) as old, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(100_000))
    for content in (compressed.getvalue(), saved[2][: len(saved[2]) // 2], b""):
        with pytest.raises(UserError, match="truncated or not an exported program"):
            programs.read("net.pt2", content)
