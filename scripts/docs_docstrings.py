"""An extension of Griffe, which reads our docstrings for the site: their aligned lists become lists of Markdown.

name:   what it is,
        in two lines          ->   - **`name`** what it is, in two lines
"""

import re

try:
    from griffe import Extension
except ImportError:  # the text's part alone is of use without
    Extension = object

ENTRY = re.compile(r"^(\w[\w.,* /]*?):(?: {2,}|$)\s*(.*)$")
SPACED = re.compile(r"^(\w+(?:, \w+)*): (?=\S)(.*)$")  # the longest name of a list has one space behind it


def listed(text: str) -> str:
    """A docstring with its lists of `name:   meaning` as Markdown's."""
    made: list[str] = []
    inside = False
    for line in text.splitlines():
        if entry := ENTRY.match(line) or (inside and SPACED.match(line)):
            made += [*([] if inside or not made or not made[-1] else [""]), f"- **`{entry[1]}`** {entry[2]}"]
            inside = True
        elif inside and line.startswith("  "):
            made[-1] += " " + line.strip()
        else:
            inside = False
            made.append(line)
    return "\n".join(made)


class Lists(Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj, **_) -> None:  # type: ignore[no-untyped-def]
        """Of modules, classes, functions and attributes alike."""
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)
