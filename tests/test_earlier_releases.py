"""What earlier releases wrote (`scripts/write_fixtures.py`) is read, and gives the numbers that it gave then."""

import json
from pathlib import Path

import numpy as np
import pytest
import whole_files
import write_fixtures

import tvm_sched
from subp import cli
from subp.training import experiments
from tvm_sched import targets
from tvm_sched.bench import suite
from tvm_sched.records.database import Records
from tvm_sched.records.fastest import BestRecords, best_of

RELEASES = sorted(path.name for path in write_fixtures.FIXTURES.iterdir())


@pytest.fixture(params=RELEASES)
def folder(request) -> Path:
    return write_fixtures.FIXTURES / request.param


@pytest.fixture
def numbers(folder) -> dict:
    return json.loads((folder / "numbers.json").read_bytes())


def test_a_compiled_network(folder, numbers):
    if not targets.runs_here(targets.get(write_fixtures.TARGET)):
        pytest.skip("this machine lacks its instructions")
    artifact = tvm_sched.load(folder / "net.so")
    outputs = artifact.run_flat(write_fixtures.given(artifact))
    for output, known in zip(outputs, numbers["net.so"], strict=True):
        np.testing.assert_allclose(output.ravel()[::7], known, rtol=1e-6, atol=1e-7)


def test_a_trained_and_a_quantised_network(folder, numbers):
    trained = write_fixtures.of_network(folder / "model.safetensors")
    np.testing.assert_allclose(trained, numbers["model.safetensors"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(write_fixtures.of_program(folder / "net.pt2"), numbers["net.pt2"], rtol=1e-5, atol=1e-6)
    assert cli.exit_code(["inspect", str(folder / "net.pt2")]) == 0


def test_a_run_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)  # where the network's file is named from
    assert write_fixtures.of_run(folder / "checkpoint.safetensors") == 1
    (tmp_path / "checkpoint.safetensors").write_bytes((folder / "checkpoint.safetensors").read_bytes())
    words = ["train", "images.zip", "-o", str(tmp_path), "--resume", "--model", "net.py:net", "--workers", "0"]
    assert cli.exit_code(words) == 0 and (tmp_path / "model.safetensors").exists()


def test_records_are_compiled_with(folder):
    records = BestRecords(folder, whole_files.one_core())
    assert sum(map(len, records.lines.values())) == len((folder / "best.jsonl").read_text().splitlines())
    assert records.form_times.of("a layer") == {"direct": 1e-3, "winograd": 2e-3}


def test_a_tuning_log_is_read_and_its_kernel_found_or_missed_in_words(folder):
    log, func = folder / write_fixtures.LOG, whole_files.task().func
    records = Records(log, whole_files.one_core())
    assert len(records.records) == 2 and len(records.workloads) == 1
    assert records.lookup(func) is not None or records.changed  # which a compilation tells
    (best,) = best_of(log).values()
    line = json.loads((folder / "best.jsonl").read_text())
    assert best | {"problem": ""} == line | {"problem": ""} and best["problem"]  # which lines of 0.1.0 do not tell


def test_texts(folder, tmp_path):
    assert targets.get(str(folder / "target.json")).cores == 2
    assert suite.read(str(folder / "layers.json"))
    assert len(experiments.read_grid(folder / "grid.yaml")) == 4 and len(experiments.read_rows(folder / "results.csv"))
    assert cli.exit_code(["report", str(folder / "bench.json"), "-o", str(tmp_path / "page.html")]) == 0
