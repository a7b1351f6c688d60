"""Files that mean harm: bombs, pipes, devices, names with commands in them. One sentence, and little memory."""

import contextlib
import gzip
import io
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from subp import cli, models
from subp.cli.options import terminal
from subp.data import decoding, idx
from subp.data.images import Zip
from subp.deployment import arrays
from subp.models import weights
from subp.training import experiments
from subp_contract import files
from subp_contract.errors import UserError

MIB = bytes(2**20)
NAMES = ("[/x]", "[bold red]a", "\x1b[2Ja", "a\u202eb")


@pytest.fixture
def small(monkeypatch):
    """What is packed may grow to a MiB."""
    monkeypatch.setattr(files, "UNPACKED", len(MIB))


def gzipped(path, shape, mib):
    with gzip.open(path, "wb", 1) as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *shape))
        for _ in range(mib):
            file.write(MIB)
    return path


def zipped(path, name, mib, said=None):
    """A zip of one member of zeros that says to be `said` bytes long."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(name, MIB * mib)
        if said is not None:
            archive.filelist[0].file_size = said
    return path


def test_a_data_set_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, small):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with pytest.raises(UserError, match="says that it unpacks to 8,589,934,592"):
        idx.read(gzipped(path, (2**17, 256, 256), 1))
    tracemalloc.start()
    with pytest.raises(UserError, match="more than the 64 bytes that its header says"):
        idx.read(gzipped(path, (1, 8, 8), 8))
    assert tracemalloc.get_traced_memory()[1] < 4 * len(MIB)
    tracemalloc.stop()


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, small):
    with pytest.raises(UserError, match="says that it unpacks to 8,388,608"):
        arrays.read_arrays(zipped(tmp_path / "a.npz", "x.npy", 8))
    with pytest.raises(UserError, match=r"^a/0\.png .*says that it unpacks to 8,388,608"):
        Zip(zipped(tmp_path / "a.zip", "a/0.png", 8)).read("a/0.png")
    liar = Zip(zipped(tmp_path / "b.zip", "a/0.png", 8, said=64))
    tracemalloc.start()
    with contextlib.suppress(*decoding.UNREADABLE):
        assert len(liar.read("a/0.png")) <= 64
    assert tracemalloc.get_traced_memory()[1] < 4 * len(MIB)
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("ending", "read"),
    [
        (".pt2", lambda path: cli.exit_code(["inspect", path])),
        (".safetensors", lambda path: cli.exit_code(["inspect", path])),
        (".pth", lambda path: cli.exit_code(["inspect", path, "--code", "resnet20"])),
        (".onnx", lambda path: cli.exit_code(["inspect", path])),
        (".so", lambda path: cli.exit_code(["inspect", path])),
        (".json", lambda path: cli.exit_code(["compile", "resnet20", "-o", path + ".so", "--target", path])),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_what_is_no_file_is_told_at_once(tmp_path, capsys, ending, read, kind):
    path = tmp_path / f"file{ending}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    assert read(str(path)) == 2
    told = capsys.readouterr().err
    assert told.startswith("subp: ") and told.count("\n") == 1


def test_tables_show_names_as_they_are_but_no_commands(capsys):
    for name in NAMES:
        table = Table("layer", title=name)
        table.add_row(name)
        terminal.show(table, Console(highlight=False, markup=False, width=80))
        terminal.say(name)
    said = capsys.readouterr().out
    assert said.count("[/x]") == 3 and said.count("[bold red]a") == 3 and said.count("\\x1b[2Ja") == 3
    assert "\x1b" not in said and "\u202e" not in said


def test_a_grid_has_no_names_for_itself(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("cells: &a [{x: *a}]")
    with pytest.raises(UserError, match="has an alias"):
        experiments.read_grid(path)


def measurement(**changed):
    row = {"network": "a", "engine": "subp", "median_ms": 1.0, "threads": 1, "n": 16, "sparsity": 0.5}
    return json.dumps({"measurements": [row | changed, row | {"engine": "torch"}]})


@pytest.mark.parametrize(
    "content",
    [
        "[" * 5000,
        "[]",
        measurement(median_ms="1"),
        measurement(median_ms=-1),
        measurement(n=[1]),
        measurement(network={}),
    ],
)
def test_measurements_of_another_kind_are_told(tmp_path, capsys, content):
    (tmp_path / "a.json").write_text(content)
    assert cli.exit_code(["report", str(tmp_path / "a.json"), "-o", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err.startswith("subp: what `subp bench --json` wrote to ")
    (tmp_path / "a.json").write_text(measurement(network="\x1b[2J中"))
    assert cli.exit_code(["report", str(tmp_path / "a.json"), "-o", str(tmp_path / "a.html")]) == 0
    assert "\x1b" not in (tmp_path / "a.html").read_text() and capsys.readouterr().err == ""


def test_an_image_says_nothing_besides_its_sentence(tmp_path, capsys):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "TIFF")
    for at in range(0, len(file.getvalue()), 3):
        damaged = bytearray(file.getvalue())
        damaged[at] ^= 0xFF
        with contextlib.suppress(UserError):
            decoding.open_image(bytes(damaged))
    assert capsys.readouterr() == ("", "")


def test_a_state_dict_in_alphabetical_order_gives_its_classes_and_channels(tmp_path):
    save_file(models.create("resnet20", 7, 4).state_dict(), tmp_path / "a.safetensors")
    state = weights.read_state_dict(tmp_path / "a.safetensors")
    assert list(state) == sorted(state) and weights.sizes(state) == {"num_classes": 7, "in_channels": 4}


def test_a_sparse_tensor_of_an_absurd_shape_is_refused():
    import onnx

    from tvm_sched.frontend.onnx.tensors import dense_tensor_of

    values = onnx.numpy_helper.from_array(np.ones(1, "float32"), "v")
    places = onnx.numpy_helper.from_array(np.zeros(1, "int64"), "p")
    with pytest.raises(UserError, match=r"'v' is of the shape .* too large"):
        dense_tensor_of(onnx.helper.make_sparse_tensor(values, places, [2**20, 2**20]))
