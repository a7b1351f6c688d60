"""ONNX files on the command line."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from subp.cli import exit_code


def model_of(nodes, outputs=("y",), shape=("batch", 16, 8, 8)) -> onnx.ModelProto:
    """Nodes from 'x' on, with a weight of 1x8 zeros."""
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    weight[:8, ::2], weight[8:, 1::2] = 0, 0
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "net", values, results, [numpy_helper.from_array(weight, "weight")])
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


CONV = helper.make_node("Conv", ["x", "weight"], ["a"], name="conv", pads=[1, 1, 1, 1])
RELU = helper.make_node("Relu", ["a"], ["y"], name="act")
STEM = helper.make_node("Conv", ["x", "weight"], ["s"], name="stem", pads=[1, 1, 1, 1])
BODY = helper.make_node("Conv", ["s", "weight"], ["a"], name="body", pads=[1, 1, 1, 1])


@pytest.fixture
def folder(tmp_path):
    onnx.save(model_of([STEM, BODY, RELU]), tmp_path / "net.onnx")
    return tmp_path


@pytest.fixture
def run(capsys):
    """A function that runs a command, which must end well, and gives what it prints."""

    def run_command(*arguments) -> str:
        assert exit_code(list(map(str, arguments))) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run_command


def test_a_file_is_compiled_measured_and_inspected(folder, monkeypatch, run):
    monkeypatch.setenv("COLUMNS", "200")
    net, so = folder / "net.onnx", folder / "net.so"
    assert "1x8" in run("compile", net, "--batch", 2, "--threads", 1, "--explain", "-o", so)
    shown = run("inspect", net)
    assert "body" in shown and "50.0%" in shown
    rows = run("bench", so, "--model", net, "--against", "torch,onnxruntime", "--seconds", "0.1")
    assert "onnxruntime" in rows and "1x8 50%" in rows


@pytest.mark.slow
def test_a_file_is_packed_tuned_and_advised_on(folder, monkeypatch, run):
    monkeypatch.setenv("COLUMNS", "200")
    net = folder / "net.onnx"
    run("compile", net, "--threads", 1, "-o", folder / "net.so")
    run("bundle", folder / "net.so", "-o", folder / "net.tar.gz")
    assert (folder / "net.tar.gz").is_file()
    assert "kernels" in run("tune", net, "--records", folder / "log", "--trials", 1, "--threads", 1, "--minutes", "0.1")
    assert "1x8" in run("advise", net, "--n", 8, "--sparsity", 0.5)


def broken(folder):
    """Name -> what is wrong with the file, and the sentence's words."""
    (folder / "cut.onnx").write_bytes((folder / "net.onnx").read_bytes()[:300])
    yield "cut.onnx", "truncated or not an ONNX file"
    onnx.save(
        model_of([CONV, RELU]), folder / "external.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (folder / "w.bin").unlink()
    yield "external.onnx", "w.bin, which is not there"
    nodes = [helper.make_node("Add", ["a", "y"], ["b"], name="sum"), helper.make_node("Relu", ["b"], ["y"], name="act")]
    onnx.save(model_of([CONV, *nodes]), folder / "cycle.onnx")
    yield "cycle.onnx", "cycle, through"
    onnx.save(
        model_of([CONV, helper.make_node("Gelu", ["a"], ["y"], "g", domain="com.microsoft")]), folder / "other.onnx"
    )
    yield "other.onnx", "operator Gelu (node 'g')"
    yield "absent.onnx", "there is no file"


def test_bad_files_are_told_in_a_sentence(folder, capsys):
    for file, words in broken(folder):
        for command in (["compile", folder / file, "-o", folder / "net.so"], ["inspect", folder / file]):
            if command[0] == "compile" or words not in ("cycle, through", "operator Gelu (node 'g')"):
                assert exit_code(list(map(str, command))) == 2, file
                assert words in capsys.readouterr().err


def test_a_file_has_weights_of_its_own(folder, capsys):
    assert exit_code(["compile", str(folder / "net.onnx"), "--n", "8", "-o", str(folder / "net.so")]) == 2
    assert "leave out --n" in capsys.readouterr().err
