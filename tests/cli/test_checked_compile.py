"""`subp compile` holds what it makes against PyTorch, and what it writes against what it made."""

import numpy as np
import pytest
import torch
from torch import nn

from subp.cli import exit_code
from subp.deployment import checks
from tvm_sched import Artifact, kernels, load


def exported(path, module, x):
    torch.export.save(torch.export.export(module.eval(), (x,)), path)
    return str(path)


@pytest.fixture
def program(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 1))
    return exported(tmp_path / "net.pt2", module, torch.randn(1, 16, 8, 8))


def compiled(program, tmp_path, *options):
    """The exit code of `subp compile`, and the file that it writes."""
    output = tmp_path / "net.so"
    return exit_code(["compile", program, "--threads", "1", "-o", str(output), *options]), output


@pytest.fixture
def wrong_kernels(monkeypatch):
    """Every kernel loses its first block."""

    def spoiled(pack):
        def packed(kernel, form):
            data, *rest = pack(kernel, form)
            data = np.array(data)
            data[0] = 0
            return [data, *rest]

        return packed

    for kernel in kernels.KERNELS:
        monkeypatch.setattr(type(kernel), "pack", spoiled(type(kernel).pack))


def test_a_wrong_network_is_not_written(program, tmp_path, capsys, wrong_kernels):
    code, output = compiled(program, tmp_path)
    sentence = capsys.readouterr().err
    assert code == 1 and not output.exists()
    assert sentence.startswith("subp: the compiled network is wrong") and sentence.count("\n") == 1
    assert "the first to depart is operator `convolution` (module 0" in sentence


def test_without_the_check_it_is_written_and_says_so(program, tmp_path, capsys, wrong_kernels):
    code, output = compiled(program, tmp_path, "--no-check")
    assert code == 0 and "; not checked against PyTorch, as asked\n" in capsys.readouterr().out
    assert not load(output).manifest["check"]["verified"]


def test_winograd_can_be_left_out(program, tmp_path, capsys):
    code, output = compiled(program, tmp_path, "--no-winograd", "--dense")
    assert code == 0 and not any("winograd" in layer.kernel for layer in load(output).explain())


def test_a_blind_check_is_told_in_a_line(tmp_path, capsys):
    module = nn.Conv2d(16, 16, 3)
    nn.init.zeros_(module.weight)
    code, output = compiled(exported(tmp_path / "net.pt2", module, torch.randn(1, 16, 8, 8)), tmp_path, "--explain")
    printed = capsys.readouterr()
    assert code == 0 and output.exists()
    assert (
        printed.err.startswith("subp: warning: the check against PyTorch says little") and printed.err.count("\n") == 1
    )
    assert "they are the same for different inputs" in printed.out


def test_a_file_that_computes_something_else_is_not_written(program, tmp_path, capsys, monkeypatch):
    def damaged(path):
        artifact = load(path)
        monkeypatch.setattr(artifact, "for_few_calls", lambda: Other(artifact._executable, artifact.manifest))
        return artifact

    class Other(Artifact):
        def run_flat(self, inputs):
            return [output + 1 for output in super().run_flat(inputs)]

    monkeypatch.setattr(checks.tvm_sched, "load", damaged)
    code, output = compiled(program, tmp_path)
    assert code == 1 and not output.exists()
    assert "what was written to net.so does not compute what was compiled" in capsys.readouterr().err
