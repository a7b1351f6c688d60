"""Bundles of networks with several inputs and outputs, of every dtype: arrays by name in .npz files."""

import json
import shutil
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched.deploy import bundle
from tvm_sched.signature import check_inputs, numpy_dtype

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here to build the runner with")
DTYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")


class Every(nn.Module):
    """Takes and gives a tensor of every dtype, and a number; looks rows up in a table."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(9, 4)

    def forward(self, tensors, index, scalar):
        given = {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}
        return {**given, "rows": self.rows(index - 3), "infinite": (scalar * 0).log(), "scalar": scalar * 2}


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    tensors = {name: torch.ones(2, 3).to(getattr(torch, name)) for name in DTYPES}
    return tvm_sched.compile(Every().eval(), (tensors, torch.tensor([3, 11]), torch.tensor(1.5)), threads=1)


@pytest.fixture(scope="module")
def unpacked(compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    compiled.save(folder / "lib.so")
    for name, content in bundle.contents(folder / "lib.so", "g++")[0].items():
        path = folder / "net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
    return folder / "net"


@pytest.fixture(scope="module")
def given(compiled):
    """Inputs by name."""
    inputs = compiled.signature.inputs
    return dict(zip((spec.name for spec in inputs), check_inputs(inputs, 5), strict=True))


def run(folder, *arguments, code=0):
    done = subprocess.run([folder / "run.sh", *map(str, arguments)], capture_output=True, text=True, cwd=folder.parent)
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr


def test_the_check_passes(unpacked):
    said = json.loads(run(unpacked, "--check", "--json"))
    assert said["check"] == "ok" and said["max_abs_error"] == 0
    assert run(unpacked, "--bench", "--seconds", 0).startswith("net: median ")


def test_outputs_are_the_artifacts(unpacked, compiled, given, tmp_path):
    np.savez(tmp_path / "x.npz", **dict(reversed(given.items())))
    said = run(unpacked, tmp_path / "x.npz", "-o", tmp_path / "y.npz", "--json")
    assert [json.loads(line)["name"] for line in said.splitlines()] == [
        each.name for each in compiled.signature.outputs
    ]
    with zipfile.ZipFile(tmp_path / "y.npz") as archive:
        assert archive.testzip() is None
    made = np.load(tmp_path / "y.npz")
    for spec, want in zip(compiled.signature.outputs, compiled.run_flat(list(given.values())), strict=True):
        got = made[spec.name]
        got = got.view(numpy_dtype("bfloat16")) if spec.dtype == "bfloat16" else got
        assert (got.shape, got.dtype) == (spec.shape, want.dtype)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "name", ["tensors_float16", "tensors_bfloat16", "tensors_int64", "tensors_bool", "tensors_int8"]
)
def test_a_wrong_number_of_any_dtype_is_found(unpacked, tmp_path, name):
    folder = shutil.copytree(unpacked, tmp_path / "net")
    path = folder / "check" / "outputs.npz"
    expected = dict(np.load(path))
    output = name.removeprefix("tensors_")
    expected[output][7] = not expected[output][7] if output == "bool" else expected[output][7] + 1
    np.savez(path, **expected)
    said = json.loads(run(folder, "--check", "--json", code=1))
    assert (said["check"], said["output"]) == ("failed", output)
    assert said["max_abs_error"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.pop("index"), "lacks the input 'index'; the network takes tensors_float32, "),
        (lambda x: x.update(more=np.ones(2)), "holds 'more', which is no input of the network"),
        (
            lambda x: x.update(index=np.ones(2, "int32")),
            "an array of 2 of <i4, the network takes 2 of <i8 as its input",
        ),
        (lambda x: x.update(scalar=np.ones(2, "float32")), "an array of 2 of <f4, the network takes 1 of <f4"),
    ],
)
def test_wrong_inputs_are_told(unpacked, given, tmp_path, change, words):
    changed = dict(given)
    change(changed)
    np.savez(tmp_path / "x.npz", **changed)
    said = run(unpacked, tmp_path / "x.npz", "-o", tmp_path / "y.npz", code=2)
    assert words in said and said.count("\n") == 1 and not (tmp_path / "y.npz").exists()


def test_a_compressed_file_is_refused(unpacked, given, tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **given)
    assert "is compressed; write it with numpy.savez" in run(unpacked, tmp_path / "x.npz", "-o", "y.npz", code=2)


def test_one_array_for_several_inputs_is_refused(unpacked, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((2, 3), "float32"))
    assert "the network takes 12 inputs (tensors_float32" in run(unpacked, tmp_path / "x.npy", "-o", "y.npz", code=2)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_a_cut_file_is_told(unpacked, given, tmp_path, share):
    path = tmp_path / "x.npz"
    np.savez(path, **given)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "x.npz is truncated or not a .npz file" in run(unpacked, path, "-o", "y.npz", code=2)


def test_a_damaged_array_is_told(unpacked, given, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **given)
    content = bytearray(path.read_bytes())
    content[given["tensors_float32"].nbytes + 150] ^= 1  # within the first array
    path.write_bytes(content)
    assert "tensors_float32.npy in " in (said := run(unpacked, path, "-o", "y.npz", code=2)) and "is damaged" in said
