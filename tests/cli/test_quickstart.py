"""The whole main job at a small budget: what it leaves behind, and when it stops."""

import json

import pytest

from subp import cli
from subp.cli import quickstart
from subp.cli.quickstart import Quickstart, Scale
from subp_contract.errors import CheckFailed

SMALL = Scale(
    epochs=1, tuning_trials=2, tuning_minutes=0.05, measuring_seconds=0.5, full_size="mobilenet_v1_x0_25", pixels=64
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results; one epoch gives no accuracy worth comparing."""
    path = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "MAX_DROP", 1.0)
        Quickstart(SMALL, path).run()
    return path


def test_it_leaves_networks_artifacts_records_report_and_picture(folder):
    kinds = ("dense", "sparse")
    names = {f"resnet20-{kind}.{suffix}" for kind in kinds for suffix in ("safetensors", "so")}
    names |= {f"{SMALL.full_size}-{kind}.so" for kind in kinds}
    assert {path.name for path in folder.iterdir()} == names | {
        "records",
        "report.json",
        "report.html",
        "quickstart.png",
    }


def test_the_report_holds_accuracies_errors_and_a_row_an_engine(folder):
    report = json.loads((folder / "report.json").read_text())
    assert set(report["accuracies"]) == {"dense", "sparse"}
    assert all(0 <= accuracy <= 1 for accuracy in report["accuracies"].values())
    errors = report["errors"]
    assert set(errors["resnet20-dense"]) == {"folded", "exported", "compiled", "loaded", "onnxruntime"}
    assert set(errors["resnet20-sparse"]) == {"folded", "exported", "compiled", "loaded"}
    assert all(0 <= error < 1e-3 for stages in errors.values() for error in stages.values())
    engines = ["pytorch", "onnxruntime", "subp-dense", "subp-sparse"]
    assert [row["engine"] for row in report["measurements"]] == engines * 2
    small = report["measurements"][:4]
    assert [(row["n"], row["sparsity"]) for row in small] == [(None, 0.0)] * 3 + [(16, 0.75)]
    assert report["machine"]["cores"] >= 1
    page = (folder / "report.html").read_text()
    assert all(f"{row['median_ms']:.4g}</td>" in page for row in report["measurements"])
    assert page.count("<h2>Run: resnet20-") == 2


def test_its_checkpoint_is_one_that_other_commands_take(folder, capsys):
    assert cli.exit_code(["inspect", str(folder / "resnet20-sparse.safetensors")]) == 0
    assert "resnet20, 10 classes, input 1x32x32" in capsys.readouterr().out


def test_a_sparse_network_far_from_dense_stops_it():
    job = Quickstart(SMALL, None)
    job.report.accuracies.update(dense=0.99, sparse=0.965)
    with pytest.raises(CheckFailed, match=r"96.5% *, is more than 2% below dense, 99.0%"):
        job.require_accuracy()
    job.report.accuracies.update(sparse=0.9701)
    job.require_accuracy()
