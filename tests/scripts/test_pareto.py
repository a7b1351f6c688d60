"""scripts/pareto.py: what it tells of compiled networks."""

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from pareto import command
from torch import nn

import tvm_sched


def test_accuracies_stand_beside_times_of_calls_in_turn(tmp_path):
    artifact = tvm_sched.compile(nn.Conv2d(3, 16, 3).eval(), torch.zeros(1, 3, 8, 8), threads=1, check=False)
    about = {}
    for name, sparsity, accuracy in (("narrow", "0.0", 0.5), ("sparse", "0.75", 0.6)):
        for precision in ("float32", "int8"):
            artifact.save(tmp_path / f"{name}-{precision}.so")
        method = "rigl" if float(sparsity) else "dense"
        about[name] = {"network": "mobilenet_v1_x0_5", "method": method, "n": "16", "sparsity": sparsity, "seeds": 3}
        about[name] |= {"accuracy": accuracy, "spread": 0.01, "lost": 0.02, "multiply_adds": 1000}
    (tmp_path / "networks.json").write_text(json.dumps(about))
    done = CliRunner().invoke(command, ["measure", str(tmp_path), "-o", str(tmp_path / "r.csv"), "--calls", "40"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    found = {(row["method"], row["precision"]): float(row["accuracy"]) for row in rows}
    assert found == pytest.approx(
        {("dense", "float32"): 0.5, ("dense", "int8"): 0.48, ("rigl", "float32"): 0.6, ("rigl", "int8"): 0.58}
    )
    assert all(float(row["ms"]) > 0 for row in rows)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
