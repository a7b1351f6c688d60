"""The whole main job at a small budget: what it leaves behind, and when it stops."""

import json

import pytest
from small_network import small

from subp import cli, models
from subp.cli import quickstart
from subp.cli.quickstart import Quickstart, Scale
from subp.deployment import stages
from subp_contract.errors import CheckFailed

SMALL = Scale(
    model="small",
    epochs=1,
    tuning_trials=2,
    tuning_minutes=0.02,
    measuring_seconds=0.3,
    full_size="large",
    pixels=16,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results; one epoch gives no accuracy worth comparing."""
    path = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("small", "large"):
            patch.setitem(models.OWN, name, small)
        patch.setattr(quickstart, "MAX_DROP", 1.0)
        patch.setattr(quickstart, "PROFILE_SECONDS", 0.1)
        patch.setattr(stages, "PEERS", ("onnxruntime", "onnxruntime-int8"))
        Quickstart(SMALL, path).run()
    return path


def test_it_leaves_networks_artifacts_records_report_and_picture(folder):
    builds = ("dense", "sparse", "dense-int8", "sparse-int8")
    names = {f"{network}-{build}.so" for network in ("small", SMALL.full_size) for build in builds}
    names |= {"small-dense.safetensors", "small-sparse.safetensors"}
    assert {path.name for path in folder.iterdir()} == names | {
        "records",
        "report.json",
        "report.html",
        "quickstart.png",
    }


def test_the_report_holds_accuracies_errors_and_a_row_an_engine(folder):
    report = json.loads((folder / "report.json").read_text())
    assert list(report["accuracies"]) == ["dense", "sparse", "dense int8", "sparse int8"]
    assert all(0 <= accuracy <= 1 for accuracy in report["accuracies"].values())
    errors = report["errors"]
    assert set(errors["small-dense"]) >= {"folded", "exported", "compiled", "loaded", "onnxruntime"}
    assert set(errors["small-sparse"]) == {"folded", "exported", "compiled", "loaded"}
    plain = [each for name, each in errors.items() if not name.endswith("int8")]
    assert all(0 <= error < 1e-3 for stages in plain for error in stages.values())
    ours = [(name, precision) for precision in ("float32", "int8") for name in ("subp-dense", "subp-sparse")]
    little, large = (
        [row for row in report["measurements"] if row["network"] == network] for network in ("small", SMALL.full_size)
    )
    for rows in (little, large):
        engines = [(row["engine"], row["precision"]) for row in rows]
        assert engines[:3] == [("pytorch", "float32"), ("onnxruntime", "float32"), ("onnxruntime-int8", "int8")]
        assert engines[-4:] == ours
    assert [(row["n"], row["sparsity"]) for row in little[-4:]] == [(None, 0.0), (16, 0.75)] * 2
    assert [each["precision"] for each in report["profiles"]] == ["float32", "int8"]
    assert report["machine"]["cores"] >= 1
    page = (folder / "report.html").read_text()
    assert all(f"{row['median_ms']:.4g}</td>" in page for row in report["measurements"])
    assert page.count("<h2>Run: small-") == 2


def test_its_checkpoint_is_one_that_other_commands_take(folder, capsys, monkeypatch):
    monkeypatch.setitem(models.OWN, "small", small)
    assert cli.exit_code(["inspect", str(folder / "small-sparse.safetensors")]) == 0
    assert "small, 10 classes, input 1x16x16" in capsys.readouterr().out


def test_a_network_far_from_dense_stops_it():
    job = Quickstart(SMALL, None)
    job.judge("dense", 0.99)
    with pytest.raises(CheckFailed, match=r"sparse accuracy, 96.5%, is more than 2% below dense, 99.0%"):
        job.judge("sparse", 0.965)
    job.judge("sparse", 0.9701)
    assert job.report.accuracies == {"dense": 0.99, "sparse": 0.9701}
