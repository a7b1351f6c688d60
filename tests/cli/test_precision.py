"""`--precision`, and what the compiled file, its table and the commands tell of it."""

import json
import shutil

import pytest
import torch
from small_network import small
from torch import nn
from zeros import prune

import tvm_sched
from subp import models
from subp.cli import exit_code
from subp_contract.errors import UserError
from tvm_sched import precision, targets
from tvm_sched.deploy.manifest import read_manifest

X = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 8, 1))
    prune(network, 8, 0.5)
    return network.eval()


@pytest.fixture
def program(network, tmp_path):
    torch.export.save(torch.export.export(network, (X,)), tmp_path / "net.pt2")
    return str(tmp_path / "net.pt2")


def test_a_compiled_file_and_its_table_tell_the_precision(program, tmp_path, capsys):
    output = tmp_path / "net.tar"
    options = ["--target", "apple-m1", "--threads", "1", "--precision", "float16", "--explain"]
    assert exit_code(["compile", program, "-o", str(output), *options]) == 0
    told = capsys.readouterr().out
    assert "precision" in told and "target apple-m1, float16" in told


def test_the_manifest_has_the_word_and_each_layers_own(network):
    artifact = tvm_sched.compile(network, X, target="cortex-a76", threads=1, precision="float16")
    assert artifact.manifest["precision"] == "float16"
    assert [layer.precision for layer in artifact.explain()] == ["float16", "float16"]
    assert artifact.manifest["cpu_flags"] == ["asimd", "asimddp", "fphp", "asimdhp"]
    assert artifact.cost().stored_bytes == 2 * sum(layer.weights for layer in artifact.explain())
    assert [artifact.manifest[key][0]["dtype"] for key in ("inputs", "outputs")] == ["float32", "float32"]


def test_float32_is_what_it_was(network, tmp_path, capsys):
    artifact = tvm_sched.compile(network, X, threads=1)
    artifact.save(tmp_path / "net.so")
    manifest, _ = read_manifest(tmp_path / "net.so")
    assert manifest["precision"] == "float32" and "allowed" not in manifest["check"]
    assert exit_code(["inspect", str(tmp_path / "net.so")]) == 0
    assert "precision" not in capsys.readouterr().out


def test_auto_tells_what_it_chose(program, tmp_path, capsys):
    output = tmp_path / "net.so"
    assert exit_code(["compile", program, "-o", str(output), "--threads", "1", "--precision", "auto"]) == 0
    assert "auto: float32, " in (told := capsys.readouterr().out) and "int8 takes calibration data" in told
    manifest, _ = read_manifest(output)
    assert manifest["precision"] == "float32" and manifest["decision"] in told.replace("\n", " ")


def test_a_named_network_needs_no_data_for_its_times(tmp_path, capsys, monkeypatch):
    """Its weights are random, so the images may be: told, and the precision wherever the file is described."""
    output = tmp_path / "net.so"
    monkeypatch.setitem(models.OWN, "small", small)
    options = ["small", "--size", "16", "--threads", "1", "-o", str(output), "--no-check"]
    assert exit_code(["compile", *options, "--precision", "int8"]) == 0
    told = capsys.readouterr().out
    assert "small: calibrated on random images, which will do for its times" in told and ", int8, input" in told
    assert read_manifest(output)[0]["precision"] == "int8"
    assert exit_code(["inspect", str(output)]) == 0
    assert "int8" in capsys.readouterr().out
    compiler = ["--cc", "g++"] if shutil.which("g++") else []  # zig first makes a library of C++ for the CPU
    assert exit_code(["bundle", str(output), "-o", str(tmp_path / "net.tar.gz"), *compiler]) == 0
    assert ", int8, " in capsys.readouterr().out


def test_what_calibrates_nothing_is_refused(program, tmp_path, capsys):
    given = {"compile": ["-o", tmp_path / "net.so"], "tune": ["--records", tmp_path / "records"]}
    for command, options in given.items():
        assert exit_code(list(map(str, [command, program, *options, "--calibrate", "digits"]))) == 2
        assert "--calibrate is for --precision int8 or auto" in capsys.readouterr().err
        assert exit_code(list(map(str, [command, program, *options, "--precision", "int8"]))) == 2
        assert "precision int8 takes calibration data" in capsys.readouterr().err
    assert exit_code(["advise", "resnet20", "--precision", "auto"]) == 2
    assert "precision auto is chosen as a network is compiled" in capsys.readouterr().err


def test_rows_of_a_benchmark_tell_the_precision(network, tmp_path):
    tvm_sched.compile(network, X, threads=1).save(tmp_path / "net.so")
    rows = tmp_path / "rows.json"
    assert exit_code(["bench", str(tmp_path / "net.so"), "--seconds", "0.1", "--json", str(rows)]) == 0
    assert [row["precision"] for row in json.loads(rows.read_text())["measurements"]] == ["float32"]


@pytest.mark.parametrize(
    ("word", "target", "reason"),
    [
        ("float12", "host", "unknown precision 'float12': choose one of float32, float16, bfloat16, int8, auto"),
        ("bfloat16", "x86-avx2", "target 'x86-avx2' has no dot products of bfloat16"),
        (
            "float16",
            "x86-avx512",
            "target 'x86-avx512' does not compute in float16: that takes an ARMv8.2 CPU with fp16",
        ),
        (
            "float16",
            "cortex-a72",
            "target 'cortex-a72' does not compute in float16: that takes an ARMv8.2 CPU with fp16",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(word, target, reason, program, tmp_path, capsys):
    output = tmp_path / "net.so"
    assert exit_code(["compile", program, "-o", str(output), "--target", target, "--precision", word]) == 2
    assert reason in capsys.readouterr().err and not output.exists()
    with pytest.raises(UserError, match=reason):
        precision.of(word, targets.get(target))


def test_targets_with_half_precision_are_those_whose_cpu_has_it():
    assert [name for name, target in targets.NAMED.items() if target.half] == [
        "cortex-a76",
        "cortex-a55",
        "neoverse-n1",
        "apple-m1",
    ]
