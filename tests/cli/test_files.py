"""Files that are not what they should be, or that a command would write over."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from subp import checkpoint, models
from subp.checkpoint import Checkpoint
from subp.cli import exit_code


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(nn.Conv2d(3, 16, 1).eval(), (torch.randn(1, 3, 8, 8),)), path)
    return path


@pytest.mark.parametrize("command", ["compile", "export"])
def test_an_output_that_is_the_model_is_refused_and_left_alone(program, tmp_path, capsys, command):
    before = program.read_bytes()
    other_name = tmp_path / "link.pt2"
    other_name.symlink_to(program)
    for output in (program, other_name, tmp_path / "." / "net.pt2"):
        assert exit_code([command, str(program), "-o", str(output)]) == 2
        assert "is an input of this command: write to another file" in capsys.readouterr().err
    assert program.read_bytes() == before


def test_run_and_bench_do_not_write_over_their_inputs(program, tmp_path, capsys):
    compiled, x = tmp_path / "net.so", tmp_path / "x.npy"
    np.save(x, np.zeros((1, 3, 8, 8), "float32"))
    assert exit_code(["compile", str(program), "-o", str(compiled)]) == 0
    before = compiled.read_bytes()
    for arguments in (["run", compiled, x, "-o", compiled], ["run", compiled, x, "-o", x], ["bench", compiled, "--json", compiled]):
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
    assert result.stderr == f"subp: {foreign} is truncated or not an exported program: write one with torch.export.save\n"


@pytest.fixture
def inspected(capsys):
    def inspect(path):
        code = exit_code(["inspect", str(path)])
        output = capsys.readouterr()
        return code, output.out + output.err

    return inspect


def test_inspect_tells_damaged_metadata_in_a_sentence(tmp_path, inspected):
    path = tmp_path / "net.safetensors"
    about = {"architecture": {"name": "resnet20", "num_classes": 4}, "history": "long"}
    checkpoint.save(path, Checkpoint(models.create("resnet20", 4).state_dict(), metadata=about))
    code, output = inspected(path)
    assert code == 2 and "is damaged: its history is of the wrong kind" in output and len(output.splitlines()) == 1
