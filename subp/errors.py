"""The one error that is the user's to mend."""


class UserError(ValueError):
    """Bad input, told in one clear sentence: what is wrong, where, what to do. The command line then exits with 2."""


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)
