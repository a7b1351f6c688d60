"""Grids of cells, their rows, and the page made of them."""

import csv
import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from subp.training import experiments
from subp.training.config import Config
from subp_contract.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
FIELDS = {
    "data": "digits", "network": "resnet20", "size": 8, "train_images": 40, "epochs": 1, "batch_size": 20, "lr": 0.05,
    "n": 16, "sparsity": 0.75, "seed": 0,
}  # fmt: skip


def grid(path, *cells):
    path.write_text(json.dumps({"defaults": FIELDS, "cells": cells}))
    return path


def test_lists_make_a_cell_for_each_of_their_values_in_the_order_of_the_file(tmp_path):
    cells = experiments.read_grid(
        grid(
            tmp_path / "g.json",
            {"method": "dense"},
            {"method": "subp", "n": [8, 16], "seed": [0, 1], "options": {"tau": 1.0, "exclude": ["layer1.*"]}},
            {"method": "dense", "variant": "the first again"},
        )
    )
    assert [(cell.method, cell.n, cell.seed) for cell in cells] == [
        ("dense", 16, 0), ("subp", 8, 0), ("subp", 8, 1), ("subp", 16, 0), ("subp", 16, 1)
    ]  # fmt: skip
    assert cells[1].options == (("exclude", ("layer1.*",)), ("tau", 1.0))


@pytest.mark.parametrize(
    "cell, message",
    [
        ({"method": "subp", "sparsty": 0.5}, "cell 1 of .* has unknown fields: sparsty"),
        ({"method": "subp", "options": {"tua": 1}}, "has options that `subp train` does not: tua"),
        ({}, "cell 1 of .* is incomplete: .*'method'"),
    ],
)
def test_grids_that_cannot_be_read_are_told(tmp_path, cell, message):
    with pytest.raises(UserError, match=message):
        experiments.read_grid(grid(tmp_path / "g.json", cell))
    (tmp_path / "g.json").write_text("[")
    with pytest.raises(UserError, match="is not a grid of cells"):
        experiments.read_grid(tmp_path / "g.json")


def test_the_shipped_grid_is_whole():
    cells = experiments.read_grid(SCRIPTS.parent / "results" / "methods.json")
    assert cells[0].method == "dense" and len({cell.key for cell in cells}) == len(cells)


def test_a_cell_trains_and_tells_what_is_left(tmp_path):
    (cell,) = experiments.read_grid(grid(tmp_path / "g.json", {"method": "subp"}))
    row = experiments.run(cell, tmp_path, tmp_path)
    assert sorted(row) == sorted(experiments.COLUMNS)
    assert 0 <= row["accuracy"] <= 1
    assert row["density"] == pytest.approx(0.25, abs=0.02)  # stem and classifier are dense
    again = experiments.run(cell, tmp_path, tmp_path / "elsewhere")
    assert all(again[name] == row[name] for name in ("accuracy", "train_accuracy", "density", "mac_share"))


def test_the_best_of_the_trials_is_judged_on_the_test_images_and_not_trained_again(tmp_path):
    trials = {"method": "subp", "held_out": 60, "judged_on": "validation", "lr": [0.01, 0.05], "train_images": 40}
    path = grid(tmp_path / "g.json", trials, trials | {"method": "dense"})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": [0, 3]}))
    plan = experiments.read_plan(path)
    first, second = plan.cells[:2]
    judged = [{"cell": first.key, "accuracy": "0.2"}]
    assert plan.sets(judged) == [plan.cells[:2], plan.cells[2:]]  # not before all of its trials are done
    finals = plan.sets([*judged, {"cell": second.key, "accuracy": "0.3"}])[0][2:]
    assert finals == [replace(second, judged_on="test", seed=seed) for seed in (0, 3)]
    trained = experiments.run(second, tmp_path, tmp_path)
    (kept,) = tmp_path.glob("cell-*/model.safetensors")
    when = kept.stat().st_mtime_ns
    row = experiments.run(finals[0], tmp_path, tmp_path)
    assert kept.stat().st_mtime_ns == when and len(list(tmp_path.glob("cell-*"))) == 1
    assert row["judged_on"] == "test" and row["cell"] != trained["cell"] and row["density"] == trained["density"]


def test_cells_that_prune_a_trained_network_share_it(tmp_path):
    cells = experiments.read_grid(
        grid(tmp_path / "g.json", {"method": "random", "epochs": 2, "pretrain_epochs": 1, "sparsity": [0.5, 0.75]})
    )
    for cell in cells:
        experiments.run(cell, tmp_path, tmp_path)
    assert len(list(tmp_path.glob("dense-*"))) == 1


def test_options_that_need_masks_are_not_the_dense_networks_to_begin_with(tmp_path):
    pretrained = {"method": "random", "epochs": 2, "pretrain_epochs": 1}
    (cell,) = experiments.read_grid(
        grid(tmp_path / "g.json", pretrained | {"options": {"sparse_compute": "kernels", "tau": 1.0}})
    )
    assert experiments.run(cell, tmp_path, tmp_path)["density"] < 0.5


def test_data_are_a_part_of_the_training_images_and_all_for_validation(tmp_path):
    (cell,) = experiments.read_grid(grid(tmp_path / "g.json", {"method": "dense"}))
    data = experiments.load(cell, tmp_path)
    images, labels = data.train.tensors
    assert images.shape[1:] == (1, 8, 8) and abs(len(labels) - 40) <= 5
    assert set(torch.bincount(labels).tolist()) <= {3, 4, 5}
    assert len(data.val) > 300


def script(name, *arguments):
    """What a script prints, called in this process."""
    command = runpy.run_path(str(SCRIPTS / name))["command"]
    done = CliRunner().invoke(command, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_script_skips_what_is_done_and_the_page_has_means_over_seeds(tmp_path):
    grid(tmp_path / "g.json", {"method": ["dense", "subp"], "seed": [0, 1]})
    arguments = [tmp_path / "g.json", "--data", tmp_path, "--output", tmp_path / "r.csv", "--work", tmp_path / "work"]
    script("compare_methods.py", *arguments, "--part", 1, 2)
    assert len(rows_of(tmp_path / "r.csv")) == 2
    assert script("compare_methods.py", *arguments).count("images/s") == 2
    rows = rows_of(tmp_path / "r.csv")
    assert len({row["cell"] for row in rows}) == 4
    script("plot_results.py", tmp_path / "r.csv")
    a, b = (100 * float(row["accuracy"]) for row in rows if row["method"] == "subp")
    assert f"| {(a + b) / 2:.2f} ± {abs(a - b) / 2**0.5:.2f} | 2 |" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_jobs_of_a_cluster_train_a_set_of_trials_each(tmp_path):
    grid(tmp_path / "g.json", {"method": "random", "lr": [0.05, 0.1], "held_out": 60, "judged_on": "validation"})
    plan = experiments.read_plan(tmp_path / "g.json")
    (tmp_path / "g.json").write_text(json.dumps(json.loads((tmp_path / "g.json").read_text()) | {"seeds": [0]}))
    work = ["--output", tmp_path / "r.csv", "--work", tmp_path / "work", "--cluster", "local"]
    told = script("compare_methods.py", tmp_path / "g.json", "--data", tmp_path, *work)
    assert told.startswith("1 jobs, ")
    rows = rows_of(tmp_path / "r.csv")
    assert [row["judged_on"] for row in rows] == ["validation", "validation", "test"]
    assert {cell.key for cell in plan.cells} == {row["cell"] for row in rows[:2]}


@pytest.mark.parametrize(
    "content, why",
    [
        ("a,b\n1,2\n", "a row needs network, method, n, sparsity, accuracy"),
        ("network,method,n,sparsity,accuracy\nnet,subp,x,0.5,1\n", "invalid literal for int"),
        ("network,method,n,sparsity,accuracy\nnet,subp,16,0.5\n", "a row needs network"),
    ],
)
def test_another_file_than_one_of_results_is_told(tmp_path, content, why):
    (tmp_path / "r.csv").write_text(content)
    with pytest.raises(UserError, match=f"r.csv is no CSV file of results: {why}"):
        experiments.read_rows(tmp_path / "r.csv")


def test_a_dense_networks_folder_is_found_again_by_a_later_version(tmp_path):
    (cell,) = experiments.read_grid(grid(tmp_path / "g.json", {"method": "random"}))
    config = Config(model="resnet20", method="dense", epochs=3, lr=0.05, seed=2)
    assert experiments.dense_key(cell, config) == "25c92a0ced52"  # as first computed
    assert experiments.dense_key(cell, replace(config, seed=3)) != "25c92a0ced52"


def test_images_held_out_are_never_trained_on_and_the_same_for_every_seed_and_judge(tmp_path):
    held = {"method": "dense", "held_out": 60, "train_images": 100}
    judged = {"judged_on": ["validation", "test"], "seed": [0, 1]}
    cells = experiments.read_grid(grid(tmp_path / "g.json", held | judged))
    parts = {(cell.judged_on, cell.seed): experiments.load(cell, tmp_path) for cell in cells}
    trained = parts["test", 0].train.tensors[0]
    assert all(torch.equal(part.train.tensors[0], trained) for part in parts.values())
    validation, test = (parts[judged, 0].val.tensors[0] for judged in ("validation", "test"))
    assert abs(len(validation) - 60) <= 5 and abs(len(trained) - 100) <= 5 and len(test) > 300
    assert torch.equal(parts["validation", 1].val.tensors[0], validation)
    (plain,) = experiments.read_grid(grid(tmp_path / "g.json", {"method": "dense"}))
    assert torch.equal(test, experiments.load(plain, tmp_path).val.tensors[0])
    flat = {tuple(image.flatten().tolist()) for image in trained}
    assert not flat & {tuple(image.flatten().tolist()) for image in validation}
    with pytest.raises(UserError, match="with some images held out"):
        experiments.read_grid(grid(tmp_path / "g.json", {"method": "dense", "judged_on": "validation"}))


def test_a_grid_may_be_yaml_and_old_cells_keep_their_keys(tmp_path):
    (cell,) = experiments.read_grid(grid(tmp_path / "g.json", {"method": "dense"}))
    (tmp_path / "g.yaml").write_text(f"defaults: {json.dumps(FIELDS)}\ncells:\n  - {{method: dense}}  # the same\n")
    assert experiments.read_grid(tmp_path / "g.yaml") == [cell]
    protocol = SCRIPTS.parent / "results"
    keys = {each.key for each in experiments.read_grid(protocol / "methods.json")}
    assert {row["cell"] for row in rows_of(protocol / "methods.csv")} <= keys
    assert {each.judged_on for each in experiments.read_grid(protocol / "protocol.yaml")} == {"validation"}


def test_lines_are_compared_with_random_and_dense_seed_by_seed(tmp_path):
    same = {"data": "d", "size": 8, "train_images": 9, "network": "net", "n": 16, "epochs": 1, "density": 1}
    accuracies = {"subp": (0.5, 0.6, 0.8), "random": (0.4, 0.55, 0.6), "dense": (0.9,), "rigl": (0.1,)}
    for method, of_method in accuracies.items():
        for seed, accuracy in enumerate(of_method):
            row = {"method": method, "sparsity": 0.75, "seed": seed, "accuracy": accuracy, "mac_share": 1}
            experiments.add_row(tmp_path / "r.csv", same | row)
    for rate in (0.05, 0.1):
        row = {"method": "st-3", "sparsity": 0.75, "seed": 0, "accuracy": rate, "mac_share": 1}
        experiments.add_row(tmp_path / "r.csv", same | row | {"options": json.dumps({"lr": rate})})
    plots = runpy.run_path(str(SCRIPTS / "plot_results.py"))
    made = plots["page"](plots["summarised"](experiments.read_rows(tmp_path / "r.csv")), "r.csv")
    lines = {line.split(" | ")[0].strip("| "): line for line in made.splitlines()}
    # Differences of 10, 5 and 20 points: t = (35 / 3) / sqrt(175 / 3 / 3), of 2 degrees p = 1 - t / sqrt(t^2 + 2).
    t = (35 / 3) / (175 / 3 / 3) ** 0.5
    p = f"{1 - t / (t * t + 2) ** 0.5:.2f}"
    assert f"| 3 | +11.67 (p {p}) | {p} |  | 100.0%" in lines["subp"]  # the only test of its family
    assert "| 1 |  |  |  | 100.0%" in lines["rigl"] and "| 3 |  |  |  | 100.0%" in lines["random"]
    assert "| 5.00 | 1 |" in lines["st-3, rate 0.05"] and "| 10.00 | 1 |" in lines["st-3, rate 0.1"]
    assert plots["holm"]([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert plots["holm"]([0.03, 0.02]) == pytest.approx([0.04, 0.04])  # not below the one before


def test_a_method_stands_beside_random_masks_over_shapes(tmp_path):
    same = {"data": "d", "size": 8, "train_images": 9, "network": "net", "epochs": 1, "density": 1, "mac_share": 1}
    gains = {4: (0.01, 0.03), 8: (0.05, 0.05), 16: (0.06, 0.1)}  # of st-3 with each of two seeds
    for n, of_seeds in gains.items():
        for seed, gain in enumerate(of_seeds):
            row = {"n": n, "sparsity": 0.75, "seed": seed} | same
            experiments.add_row(tmp_path / "r.csv", row | {"method": "random", "accuracy": 0.5 + 0.1 * seed})
            experiments.add_row(tmp_path / "r.csv", row | {"method": "st-3", "accuracy": 0.5 + 0.1 * seed + gain})
            if n < 16:
                experiments.add_row(tmp_path / "r.csv", row | {"method": "rigl", "accuracy": 0.4 + 0.01 * seed})
    plots = runpy.run_path(str(SCRIPTS / "plot_results.py"))
    lines = plots["summarised"](experiments.read_rows(tmp_path / "r.csv"))
    # Two of N = 8 differ equally, which no test by seeds takes; a third shape makes them three again.
    assert plots["over_shapes"](lines, "st-3") is None and plots["over_shapes"](lines, "rigl") is None
    for seed, gain in enumerate((0.04, 0.06)):
        row = {"n": 32, "sparsity": 0.75, "seed": seed} | same
        experiments.add_row(tmp_path / "r.csv", row | {"method": "random", "accuracy": 0.5})
        experiments.add_row(tmp_path / "r.csv", row | {"method": "st-3", "accuracy": 0.5 + gain})
    lines = plots["summarised"](experiments.read_rows(tmp_path / "r.csv"))
    shapes, mean, p = plots["over_shapes"](lines, "st-3")
    # Differences of 2, 8 and 5 points: t = 5 / (3 / sqrt(3)), of 2 degrees p = 1 - t / sqrt(t^2 + 2).
    t = 5 / 3**0.5
    assert shapes == 3 and mean == pytest.approx(5) and p == pytest.approx(1 - t / (t * t + 2) ** 0.5)
    assert "| st-3 | 3 | +5.00 | 0.102 |" in plots["page"](lines, "r.csv")
