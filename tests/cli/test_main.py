"""The command line as a whole: light help, one sentence for what the user can mend, exit codes."""

import errno
import subprocess
import sys
import warnings

import click
import pytest

from subp import cli
from subp_contract.errors import Notice
from subp_contract.errors import UserError as DeploymentError
from subp_contract.errors import UserError as TrainingError

HEAVY = ("torch", "torchvision", "tvm", "onnxruntime", "matplotlib", "sklearn", "scipy")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in cli.COMMANDS)], ids=" ".join)
def test_help_is_light(arguments):
    code = f"from subp import cli; assert cli.exit_code({arguments}) == 0"
    report = f"import sys; print([module for module in {HEAVY} if module in sys.modules])"
    python = [sys.executable, "-c", f"{code}; {report}"]
    output = subprocess.run(python, capture_output=True, text=True, check=True).stdout
    assert output.startswith("Usage: subp")
    assert output.endswith("[]\n")


def test_help_lists_every_command_with_a_line(capsys):
    assert cli.exit_code([]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    described = {first for first, *others in filter(None, words) if others}
    assert described >= set(cli.COMMANDS)


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["nonsense"], "nonsense"),
        (["compile"], "MODEL"),
        (["compile", "resnet18", "--nonsense"], "--nonsense"),
        (["run", "nowhere.so", "nowhere.npy"], "nowhere.so"),
        (["train"], "DATA"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(arguments, part, capsys):
    assert cli.exit_code(arguments) == 2
    sentence = capsys.readouterr().err
    assert part in sentence and "--help" in sentence
    assert sentence.startswith("subp: ") and sentence.count("\n") == 1


def test_a_notice_is_said_once_in_a_command(capsys):
    def work():
        for words in ("one", "other", "one"):
            warnings.warn(words, Notice, stacklevel=1)

    for _ in range(2):
        assert cli.guarded(work) == 0
        assert capsys.readouterr().err == "subp: warning: one\nsubp: warning: other\n"


@pytest.fixture
def failing(monkeypatch):
    """failing(error): the exit code of a command that raises it."""

    def run(error: BaseException) -> int:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(cli.Commands, "get_command", lambda self, ctx, name: command)
        return cli.exit_code(["doctor"])

    return run


@pytest.mark.parametrize("error", [TrainingError("the one sentence"), DeploymentError("the one sentence")])
def test_a_user_error_is_one_sentence_and_exit_code_2(failing, error, capsys):
    assert failing(error) == 2
    assert capsys.readouterr().err == "subp: the one sentence\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOENT])
def test_a_mendable_system_error_names_the_file(failing, number, capsys):
    assert failing(OSError(number, "the reason", "some/file")) == 2
    assert capsys.readouterr().err == "subp: some/file: the reason\n"


def test_an_interrupt_is_exit_code_130(failing, capsys):
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == "subp: interrupted"


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "broken disk"), ZeroDivisionError()])
def test_a_bug_keeps_its_traceback(failing, error):
    with pytest.raises(type(error)):
        failing(error)


def test_a_failed_check_is_exit_code_1(failing, capsys):
    from subp_contract.errors import CheckFailed

    assert failing(CheckFailed("dense differs")) == 1
    assert capsys.readouterr().err == "subp: dense differs\n"
