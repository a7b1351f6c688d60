"""The one exception for what a user can mend."""


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what to do. The command line prints it and exits with
    2.
    """


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless the condition holds."""
    if not condition:
        raise UserError(message)
