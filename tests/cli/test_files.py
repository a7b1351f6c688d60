"""Files that are not what they should be, or that a command would write over."""

import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from subp import Sparsifier, models
from subp.cli import exit_code
from subp.cli.inspect import onnx_layers
from subp.pruning import masking
from subp.training import checkpoint
from subp.training.checkpoint import Checkpoint
from subp_contract.errors import UserError


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(nn.Conv2d(3, 16, 1).eval(), (torch.randn(1, 3, 8, 8),)), path)
    return path


def test_an_output_that_is_the_model_is_refused_and_left_alone(program, tmp_path, capsys):
    before = program.read_bytes()
    other_name = tmp_path / "link.pt2"
    other_name.symlink_to(program)
    for output in (program, other_name, tmp_path / "." / "net.pt2"):
        assert exit_code(["export", str(program), "-o", str(output)]) == 2
        assert "is an input of this command: write to another file" in capsys.readouterr().err
    assert program.read_bytes() == before


def test_run_and_bench_do_not_write_over_their_inputs(program, tmp_path, capsys):
    compiled, x = tmp_path / "net.so", tmp_path / "x.npy"
    np.save(x, np.zeros((1, 3, 8, 8), "float32"))
    assert exit_code(["compile", str(program), "-o", str(compiled)]) == 0
    before = compiled.read_bytes()
    for arguments in (
        ["run", compiled, x, "-o", x],
        ["bench", compiled, "--json", compiled],
    ):
        assert exit_code([str(argument) for argument in arguments]) == 2
        assert "is an input of this command" in capsys.readouterr().err
    assert compiled.read_bytes() == before
    assert np.load(x).shape == (1, 3, 8, 8)


def test_a_file_that_is_no_exported_program_is_told_in_one_line(tmp_path):
    foreign = tmp_path / "foreign.pt2"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("a.txt", "x")
    code = "import sys; from subp.cli import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", code, "compile", str(foreign), "-o", str(tmp_path / "net.so")]
    result = subprocess.run(arguments, capture_output=True, text=True)  # a process of its own: torch logs past capsys
    assert result.returncode == 2
    assert (
        result.stderr == f"subp: {foreign} is truncated or not an exported program: write one with torch.export.save\n"
    )


@pytest.fixture
def inspected(capsys):
    def inspect(path, *options):
        code = exit_code(["inspect", str(path), *options])
        output = capsys.readouterr()
        return code, output.out + output.err

    return inspect


def test_inspect_tells_damaged_metadata_in_a_sentence(tmp_path, inspected):
    path = tmp_path / "net.safetensors"
    about = {"architecture": {"name": "resnet20", "num_classes": 4}, "history": "long"}
    checkpoint.save(path, Checkpoint(models.create("resnet20", 4).state_dict(), metadata=about))
    code, output = inspected(path)
    assert (
        code == 2 and "is damaged or of another version: Expected `array`" in output and len(output.splitlines()) == 1
    )


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """(ONNX file, compiled file) of a network whose middle convolution keeps a quarter of its 1x16 blocks."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, bias=False), nn.Flatten(), nn.Linear(512, 10)
    )
    Sparsifier(network, n=16, sparsity=0.75, epochs=1, start=0, end=0).step(0)
    program = torch.export.export(masking.fold(network).eval(), (torch.randn(1, 3, 6, 6),))
    folder = tmp_path_factory.mktemp("sparse")
    torch.export.save(program, folder / "net.pt2")
    for command, name in (("export", "net.onnx"), ("compile", "net.so")):
        assert exit_code([command, str(folder / "net.pt2"), "-o", str(folder / name)]) == 0
    return folder / "net.onnx", folder / "net.so"


def test_inspect_reads_an_onnx_file(sparse):
    rows = {row.name: row for row in onnx_layers(onnx.shape_inference.infer_shapes(onnx.load(sparse[0])).graph)}
    assert [(row.n, row.density, row.macs) for row in rows.values()] == [
        (None, 1.0, 3 * 32 * 36),
        (16, 0.25, 32 * 32 * 9 * 16),
        (None, 1.0, 5120),
    ]
    assert rows["2"].bsr_bytes == 2 * 8 * (16 * 9 * 4 + 4)
    assert rows["4"].shape == (10, 512)


def test_inspect_prints_onnx_and_compiled_files(sparse, inspected):
    code, output = inspected(sparse[0])
    assert code == 0 and "25.0%" in output and "Gemm" in output
    code, output = inspected(sparse[1])
    assert code == 0 and "25.0%" in output and "8/32" in output and "[1, 3, 6, 6] of float32" in output
    assert "0.15 M" in output and "0.04 M" in output  # of the middle layer, and what is computed of it


def test_inspect_counts_what_threads_share(sparse, inspected):
    code, output = inspected(sparse[1], "--threads", "1,2")
    (line,) = (line for line in output.splitlines() if "direct_conv2d1" in line)
    assert code == 0 and "2 threads" in output and "all, by multiply-adds" in output
    assert "1.00" in line and "2.00" in line  # too small for two threads
    code, output = inspected(sparse[0], "--threads", "2")
    assert code == 2 and "--threads tells of a compiled file" in output


@pytest.mark.parametrize("suffix, told", [(".onnx", "not an ONNX file"), (".so", "not a shared library")])
def test_inspect_tells_foreign_files_in_a_sentence(tmp_path, inspected, suffix, told):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"nothing of that kind")
    code, output = inspected(path)
    assert code == 2 and told in output
    code, output = inspected(tmp_path / f"missing{suffix}")
    assert code == 2 and "there is no file" in output


def test_a_compiled_file_that_cannot_be_loaded_here_is_checked_in_memory(program, tmp_path, capsys, monkeypatch):
    """As on a mount without permission to execute, or linked for another C library."""

    def refuse(*_):
        raise UserError("cannot be loaded")

    monkeypatch.setattr("tvm_sched.load", refuse)
    assert exit_code(["compile", str(program), "-o", str(tmp_path / "net.so")]) == 0
    assert "largest error to PyTorch" in capsys.readouterr().out
    assert (tmp_path / "net.so").exists()
