"""-c FILE.yaml: options from a file, what it refuses, and the file that a command leaves."""

import pytest
import yaml
from safetensors.torch import load_file

from subp import cli
from subp.cli.options.config_file import CONFIGURED, write_resolved

RUN = {"data": "digits", "model": "resnet20", "epochs": 1, "size": 8, "n": 8, "sparsity": 0.5, "batch-size": 512}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """file(content): the name of a file of that content, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        (tmp_path / "c.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return "c.yaml"

    return write


@pytest.mark.parametrize(
    "command, content, words",
    [
        ("train", {"epoch": 3}, "c.yaml: epoch is no option of subp train that a file may give; did you mean epochs?"),
        ("train", {"epochs": 1.5}, "c.yaml: epochs: '1.5' is not a valid int"),
        ("train", {"epochs": [1, 2]}, "c.yaml: epochs: '1,2' is not a valid int"),
        ("train", {"epochs": True}, "c.yaml: epochs is True: it must be a value, not a flag"),
        ("train", {"compile": 1}, "c.yaml: compile is 1: it must be true or false"),
        ("train", {"method": "sup"}, "c.yaml: method: 'sup' is not one of"),
        ("train", {"lr": {"a": 1}}, "c.yaml: lr is {'a': 1}: a value is needed"),
        ("train", "a: [", "c.yaml is no YAML"),
        ("train", "- 1", "c.yaml must hold lines OPTION: VALUE"),
        ("bench", {"against": ["torch", "tensorflow"]}, "c.yaml: against: 'tensorflow'"),
        ("compile", {"shape": ["1x3x8"], "batch": 0}, "c.yaml: batch: 0 is not in the range"),
    ],
)
def test_a_file_is_refused_in_a_sentence_that_names_the_key(file, command, content, words, capsys):
    assert cli.exit_code([command, "-c", file(content)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("command", CONFIGURED)
def test_every_option_and_argument_may_stand_in_a_file(command):
    group = cli.group
    found = group.get_command(None, command)
    assert [param.name for param in found.params].count("config") == 1


def test_a_run_leaves_its_settings_and_can_be_trained_from_them(file, tmp_path):
    assert cli.exit_code(["train", "-c", file(RUN), "-o", "a", "--n", "16", "--exclude", "*.conv1"]) == 0
    left = yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    assert left | {"exclude": ["*.conv1"], "n": 16, "tau": 0.01} == left
    assert {name: left[name] for name in RUN if name != "n"} == {name: RUN[name] for name in RUN if name != "n"}
    assert cli.exit_code(["train", "--config", "a/config.yaml", "-o", "b"]) == 0
    assert (tmp_path / "b/config.yaml").read_text() == (tmp_path / "a/config.yaml").read_text()
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in "ab")
    assert first and all(second[name].equal(weight) for name, weight in first.items())


def test_what_was_made_from_a_file_leaves_one_beside_it(file, tmp_path):
    content = {"model": "resnet20", "shape": ["1x3x8x8", "1x3x9x9,1x2"], "threads": 1, "no-check": True}
    compiling = cli.group.get_command(None, "compile")
    context = compiling.make_context("compile", ["-c", file(content), "-o", "net.so", "--json", "net.json"])
    write_resolved(tmp_path / "net.so", context)
    left = yaml.safe_load((tmp_path / "net.so.yaml").read_text())
    assert left == left | content and "output" not in left and "json" not in left
    again = compiling.make_context("compile", ["-c", "net.so.yaml", "-o", "net.so", "--json", "net.json"])
    assert again.params == context.params
