"""The exceptions that end a command with a sentence instead of a traceback."""


class Error(ValueError):
    """What the caller can mend, told in one sentence: what is wrong, where, and what to do. Users catch it as
    `subp.Error` or `tvm_sched.Error`, which are the same; the command line prints it and exits with 2.
    """


UserError = Error  # its name within the house


class CheckFailed(UserError):
    """Two things that must agree do not, told in one sentence. The command line prints it and exits with 1."""


class Notice(UserWarning):
    """Nothing is wrong, but it should be known; told in one sentence. The command line prints it."""


class CheckWarning(Notice):
    """A check passed, but says little; why is told in one sentence."""


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
