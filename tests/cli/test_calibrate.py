"""`subp calibrate` on this machine, in no time: what it finds is noise, but of the right form."""

import json
from math import isfinite

import pytest

from subp import cli
from tvm_sched import targets
from tvm_sched.bench.calibration.probes import NOT_MEASURED
from tvm_sched.targets import cpu_name
from tvm_sched.targets.costs import FIGURES, RANGES


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """(exit code, the target written, content of the JSON file)"""
    folder = tmp_path_factory.mktemp("calibrated")
    target, table = folder / "mine.json", folder / "table.json"
    code = cli.exit_code(["calibrate", "--seconds", "0.001", "-o", str(target), "--json", str(table)])
    return code, targets.get(str(target)), json.loads(table.read_text())


def test_every_figure_is_in_the_table_with_what_became_of_it(calibrated):
    code, _, content = calibrated
    assert code == 0
    assert [each["figure"] for each in content["findings"]] == list(FIGURES)
    for each in content["findings"]:
        assert each["before"] == getattr(targets.host().costs, each["figure"])
        assert each["unit"] == FIGURES[each["figure"]].metadata["unit"]
        if each["measured"] is None:
            assert each["kept"].startswith("not measured: ")
        else:
            assert isfinite(each["measured"]) and each["figure"] not in NOT_MEASURED


def test_the_file_is_a_target_of_this_machine_with_what_was_measured(calibrated):
    _, target, content = calibrated
    host = targets.host()
    assert target.costs.measured_on == cpu_name()
    for each in content["findings"]:
        figure = getattr(target.costs, each["figure"])
        assert figure == (each["before"] if each["kept"] else each["measured"])
        least, most = RANGES[each["unit"]]
        assert least <= figure <= most
    unlike = {field for field, value in vars(target).items() if value != getattr(host, field)}
    assert unlike == {"name", "costs"}


def test_most_figures_of_this_machine_can_be_measured(calibrated):
    measured = [each["figure"] for each in calibrated[2]["findings"] if each["measured"] is not None]
    assert len(measured) >= 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "z80"], "unknown target 'z80'"),
        (["-o", "mine.txt"], "a target file's name ends in .json"),
        (["--seconds", "0"], "--seconds"),
        (["--target", "cortex-a76" if targets.host().arch == "x86_64" else "x86-avx2"], "cannot be measured"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_told_in_a_sentence(options, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(["calibrate", *options]) == 2
    sentence = capsys.readouterr().err
    assert words in sentence and sentence.count("\n") == 1
