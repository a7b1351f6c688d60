"""A hook of MkDocs: pages and pictures that stand outside docs/ are part of the site, under their own paths.

So links such as `../results/methods.md` hold where the repository is read as files, and on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "LICENSE")
FOLDERS = ("results", "examples", "tuning_logs")  # with all that Git knows of them, but for records
SUFFIXES = {".md", ".png", ".svg", ".csv", ".yaml", ".json", ".py", ".cc", ".txt"}


def outside() -> list[str]:
    """Paths from the root of what joins the site."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    return [*OUTSIDE, *(path.relative_to(ROOT).as_posix() for path in paths)]


def relinked(markdown: str, page: str, known: set[str]) -> str:
    """A page's text with its links as they are on the site, where docs/ is the root.

    page: its path on the site; known: the paths of `outside`. A link from docs/ to one of them loses a `../`, one from
    them into docs/ loses `docs/`.
    """
    home = page if page in known else f"docs/{page}"

    def link(match: re.Match) -> str:
        path, anchor = match[1], match[2] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
        place = target.removeprefix("docs/")
        if target not in known and place == target:
            return match[0]
        return f"]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"\]\((?!https?:|mailto:|#|<)([^)#\s]+)(#[^)\s]*)?\)", link, markdown)


def on_files(files: Any, config: Any) -> Any:
    """Adds the files outside docs/."""
    from mkdocs.structure.files import File

    for path in outside():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Moves the links."""
    return relinked(markdown, page.file.src_uri, set(outside()))
