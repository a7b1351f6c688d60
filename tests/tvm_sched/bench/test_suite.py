"""Suites: what files mean, what is said to bad ones, and how results are summed up."""

import json
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from subp_contract.errors import UserError
from tvm_sched.bench import suite
from tvm_sched.bench.rows import Row
from tvm_sched.bench.suite import Case, LayerShape, parse

ROW = Row("net", "subp-sparse", "host", 16, 0.75, 1, 1, 2.0, 2.5, 1.9, None, 1, time_over_d=0.25, goal=0.2)


def test_shipped_suites_are_whole():
    assert suite.names() == ["batch", "layers", "networks", "peers", "quick", "small_n", "threads"]
    cases = {name: suite.read(name).cases for name in suite.names()}
    assert all(case.sparsities for own in cases.values() for case in own)
    assert {case.n for case in cases["small_n"]} == {4, 8, 16, 32}
    assert {case.batch for case in cases["batch"]} == {1, 8, 32}
    assert {case.threads for case in cases["threads"]} == {1, 2}
    kinds = {
        (layer.kernel, layer.stride, layer.groups > 1, layer.size is None)
        for layer in (case.layer for case in cases["layers"])
    }
    assert {
        (1, 1, False, False),
        (3, 1, False, False),
        (3, 2, False, False),
        (7, 2, False, False),
        (1, 1, False, True),
    } <= kinds
    assert {(kernel, stride, True, False) for kernel in (3, 5) for stride in (1, 2)} <= kinds


def test_the_networks_suite_has_a_goal_for_dense_75_and_90_percent():
    cases = suite.read("networks").cases
    goals = {case.name: [case.goals.get(sparsity) for sparsity in (0.0, 0.5, 0.75, 0.9)] for case in cases}
    assert goals == {
        "resnet18": [0.48, None, 0.18, 0.13],
        "resnet34": [0.47, None, 0.15, 0.11],
        "resnet50": [0.8, None, 0.22, 0.14],
        "mobilenet_v1": [1.05, None, 0.35, 0.23],
        "mobilenet_v2": [1.15, None, 0.58, 0.45],
    }
    assert all((case.n, case.size, case.batch, case.threads) == (16, 224, 1, 1) for case in cases)


def test_all_combinations_are_cases_in_order():
    cases = parse("own", {"networks": ["a", "b"], "sparsity": [0, 0.5], "batch": [1, 8], "threads": [1, 2]}).cases
    assert [str(case) for case in cases] == [
        "a", "a, 2 threads", "a, batch 8", "a, batch 8, 2 threads",
        "b", "b, 2 threads", "b, batch 8", "b, batch 8, 2 threads",
    ]  # fmt: skip
    assert str(parse("own", {"networks": ["a"], "sparsity": [0.5], "n": [4]}).cases[0]) == "a, 1x4"


def test_a_layer_has_its_own_sparsities_or_the_suites():
    layers = [
        {"name": "conv", "in": 8, "out": 16, "size": 10, "kernel": 3, "stride": 2},
        {"name": "fc", "in": 8, "out": 4, "sparsity": [0]},
    ]
    conv, fc = parse("own", {"layers": layers, "sparsity": [0, 0.5], "goals": {"conv": {"0.5": 0.6}}}).cases
    assert conv == Case("conv", 16, (0.0, 0.5), 0, 1, 1, {0.5: 0.6}, LayerShape("conv", 8, 16, 10, 3, 2))
    assert (fc.sparsities, fc.layer.size, fc.goals) == ((0.0,), None, {})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"networks": []}, "'networks' must be a list"),
        ({"networks": [1]}, "'networks' must be a list"),
        ({"sparsity": [1]}, "'sparsity' must be"),
        ({"sparsity": []}, "'sparsity' must be"),
        ({"sparsity": 0.5}, "'sparsity' must be"),
        ({"sparsity": [True]}, "'sparsity' must be"),
        ({"batch": [0]}, "'batch' must be a list of positive"),
        ({"threads": [1.5]}, "'threads' must be a list of positive"),
        ({"n": 16}, "'n' must be a list of positive"),
        ({"seconds": 0}, "'seconds' must be"),
        ({"goals": {"b": {"0.5": 1}}}, "goal for 'b'"),
        ({"goals": {"a": {"0.9": 1}}}, "goals of 'a'"),
        ({"goals": {"a": 1}}, "'goals' must be"),
        ({"networks2": []}, "'networks2' is none of"),
        ({"layers": []}, "either 'networks' or 'layers'"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_told(tmp_path, wrong, words):
    refused(tmp_path, json.dumps({"networks": ["a"], "sparsity": [0.5]} | wrong), words)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({}, "must have a name"),
        ({"name": "a", "in": 3}, "of layer 'a' must be positive"),
        ({"name": "a", "in": 3, "out": 0}, "of layer 'a' must be positive"),
        ({"name": "a", "in": 3, "out": 4, "width": 3}, "'width' of layer 'a'"),
        ({"name": "a", "in": 4, "out": 4, "size": 8, "groups": 3}, "3 groups of layer 'a'"),
        ("a", "'layers' must be a list"),
    ],
    ids=str,
)
def test_a_wrong_layer_is_told(tmp_path, layer, words):
    refused(tmp_path, json.dumps({"layers": [layer], "sparsity": [0]}), words)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no JSON"), ("[]", "must be one JSON object"), ("", "is no JSON")]
)
def test_what_is_no_json_object_is_told(tmp_path, text, words):
    refused(tmp_path, text, words)


def test_a_missing_suite_is_answered_with_the_shipped_ones():
    with pytest.raises(UserError, match="no suite none: give a file, or one of batch, layers, networks"):
        suite.read("none")


def refused(folder, text, words):
    path = folder / "own.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        suite.read(str(path))
    assert "\n" not in str(caught.value) and "own.json" in str(caught.value)


def test_the_summary_has_a_line_a_case_and_a_column_a_sparsity():
    cases = parse("own", {"networks": ["a", "b"], "sparsity": [0, 0.75]}).cases
    reached = replace(ROW, median_ms=1.0, time_over_d=0.125)
    results = [(cases[0], {0.0: replace(ROW, goal=None), 0.75: ROW}), (cases[1], {0.75: reached})]
    console = Console(width=100, record=True, file=StringIO())
    console.print(suite.summary(results))
    lines = [line.replace("│", " ").replace("┃", " ").split() for line in console.export_text().splitlines()]
    assert ["dense", "75%"] in lines
    at = lines.index(["a", "2.000", "2.000"])
    assert lines[at : at + 4] == [
        ["a", "2.000", "2.000"],
        ["0.250", "0.250", "0.20", "NO"],
        ["b", "1.000"],
        ["0.125", "0.20", "yes"],
    ]
