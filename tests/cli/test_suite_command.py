"""`subp bench --suite`: what it prints and leaves on disk."""

import json

import pytest
from small_network import small

from subp import cli, models
from subp.deployment import suite_run
from tvm_sched.bench import overhead

LAYERS = {
    "layers": [
        {"name": "pointwise", "in": 32, "out": 64, "size": 6},
        {"name": "depthwise", "in": 32, "out": 32, "size": 7, "kernel": 5, "stride": 2, "groups": 32, "sparsity": [0]},
        {"name": "classifier", "in": 64, "out": 20},
    ],
    "sparsity": [0, 0.75],
    "seconds": 0.1,
    "goals": {"pointwise": {"0.75": 1000, "0": 1e-9}},
}


@pytest.fixture(scope="module", autouse=True)
def briefly():
    """Nothing is measured for longer than it takes to have a number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite_run, "PROFILE_SECONDS", 0.05)
        patch.setattr(overhead, "MORE", 2)
        patch.setattr(overhead, "SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """(exit code, content of the JSON file) of a suite of single layers beside both references."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "own.json").write_text(json.dumps(LAYERS))
    options = ["--against", "torch,onnxruntime", "--json", str(folder / "out.json")]
    code = cli.exit_code(["bench", "--suite", str(folder / "own.json"), *options])
    content = json.loads((folder / "out.json").read_text())
    page = (folder / "out.html").read_text()  # of the same numbers
    assert all(f"<td>{row['median_ms']:.4g}</td>" in page for row in content["measurements"])
    assert page.count("where the time goes</h3>") == len(content["profiles"])
    return code, content


def test_each_layer_is_measured_at_its_sparsities_beside_the_references(layers):
    code, content = layers
    assert code == 0
    told = [(row["network"], row["engine"], row["n"], row["sparsity"]) for row in content["measurements"]]
    references = ("pytorch", None, 0.0), ("onnxruntime", None, 0.0)
    assert told == [
        *[("pointwise", *engine) for engine in (("subp-dense", None, 0), ("subp-sparse", 16, 0.75), *references)],
        *[("depthwise", *engine) for engine in (("subp-dense", None, 0), *references)],
        *[("classifier", *engine) for engine in (("subp-dense", None, 0), ("subp-sparse", 16, 0.75), *references)],
    ]


def test_rows_hold_costs_and_goals(layers):
    dense, sparse, pytorch, _ = layers[1]["measurements"][:4]
    assert (dense["dense_macs"], dense["kept_macs"]) == (36 * 32 * 64, 36 * 32 * 64)
    assert (sparse["dense_macs"], sparse["kept_macs"]) == (36 * 32 * 64, 36 * 8 * 64)
    assert [row["goal"] for row in (dense, sparse, pytorch)] == [1e-9, 1000, None]
    assert sparse["peak_gflops"] == dense["peak_gflops"] >= sparse["peak_median_gflops"] > 1
    assert sparse["file_limit_bytes"] == int(1.05 * 4 * 8 * 64) + 300 * 1024


def test_each_of_our_builds_has_a_profile_that_names_its_layer(layers):
    profiles = layers[1]["profiles"]
    assert [(each["network"], each["sparsity"]) for each in profiles] == [
        ("pointwise", 0), ("pointwise", 0.75), ("depthwise", 0), ("classifier", 0), ("classifier", 0.75),
    ]  # fmt: skip
    for each in profiles:
        (step,) = (step for step in each["steps"] if step["layer"])
        assert step["kept_macs"] > 0 and step["min_us"] <= step["median_us"]
        kernels = [step["kernel"] for step in each["steps"] if not step["layer"]]
        assert not any("transpose" in kernel for kernel in kernels)  # a layer alone is measured as inside a network


def test_weights_of_16_bits_are_measured_as_such(tmp_path, capsys):
    suite = {"layers": [{"name": "classifier", "in": 256, "out": 64}], "sparsity": [0], "seconds": 0.1}
    (tmp_path / "own.json").write_text(json.dumps(suite))
    options = ["--weights", "float16", "--json", str(tmp_path / "out.json")]
    assert cli.exit_code(["bench", "--suite", str(tmp_path / "own.json"), *options]) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text())["measurements"]
    assert (row["weights"], row["precision"]) == ("float16", "float32") and "float16" in capsys.readouterr().out
    assert cli.exit_code(["bench", "--suite", "quick", "--weights", "float16", "--precision", "int8"]) == 2
    assert "leave out one of the two" in capsys.readouterr().err


def test_the_machine_and_the_cost_of_calls_are_told(layers):
    content = layers[1]
    assert content["machine"]["cpu"] and len(content["machine"]["cpus"]) == 1
    assert content["overhead"]["call_us"] > 0


def test_a_run_that_stops_keeps_what_it_has_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(models.OWN, "small", small)
    suite = {"networks": ["small", "no_such_network"], "size": [16], "sparsity": [0.75], "seconds": 0.1}
    (tmp_path / "own.json").write_text(json.dumps(suite))
    out = tmp_path / "out.json"
    assert cli.exit_code(["bench", "--suite", str(tmp_path / "own.json"), "--json", str(out)]) == 2
    captured = capsys.readouterr()
    assert "no_such_network" in captured.err and "1x16 75%" in captured.out
    (row,) = json.loads(out.read_text())["measurements"]
    assert (row["network"], row["n"], row["sparsity"], row["batch"], row["threads"]) == ("small", 16, 0.75, 1, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["none"], "no suite none"),
        (["threads"], "wants 2 threads; this process may use 1"),
        (["quick", "--threads", "1"], "leave out --threads"),
        (["quick", "--model", "resnet20", "--n", "4"], "leave out --model and --n"),
        (["quick", "--layers"], "leave out --layers"),
        (["quick", "--against", "dense"], "leave dense out"),
        (["quick", "--against", "tensorrt"], "tensorrt"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, words, capsys):
    assert cli.exit_code(["bench", "--suite", *options]) == 2
    sentence = capsys.readouterr().err
    assert words in sentence and sentence.count("\n") == 1
