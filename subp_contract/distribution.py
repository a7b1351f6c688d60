"""What the distribution is called, and its version, which pyproject.toml reads here: so a checkout knows it too.

`subp` is a stranger's on the package index; the modules keep that name.
"""

NAME = "subp-cpu"
VERSION = "0.1.0"


def install(extra: str) -> str:
    """The command that brings an extra of pyproject.toml, as it is typed."""
    return f"pip install '{NAME}[{extra}]'"
