"""What the site is made by: docstrings' lists, links out of docs/, and the pictures as they are drawn."""

from pathlib import Path

import docs_docstrings
import docs_site
import draw_concepts

ROOT = Path(__file__).resolve().parents[2]


def test_aligned_lists_of_docstrings_become_lists():
    entries = "module:    a network,\n           or a file\nlong_name: of it"
    text = f"Compiles.\n\n{entries}\nOf a kind: no entry\n\n    code: stays"
    made = docs_docstrings.listed(text).splitlines()
    assert made[2:4] == ["- **`module`** a network, or a file", "- **`long_name`** of it"]
    assert made[0] == "Compiles." and made[-1] == "    code: stays"


def test_links_out_of_docs_hold_on_the_site():
    known = {"results/methods.md", "CHANGELOG.md", "examples/README.md", "examples/int8.py"}

    def moved(link: str, page: str) -> str:
        return docs_site.relinked(f"[x]({link})", page, known)[4:-1]

    assert moved("../results/methods.md", "results.md") == "results/methods.md"
    assert moved("../../examples/int8.py", "tasks/own_loop.md") == "../examples/int8.py"
    assert moved("../docs/index.md#a", "examples/README.md") == "../index.md#a"
    assert moved("docs/architecture.md", "CHANGELOG.md") == "architecture.md"
    assert moved("int8.py", "examples/README.md") == "int8.py"
    for stays in ("methods.md#options", "https://a.example/b.md", "#here"):
        assert moved(stays, "training.md") == stays


def test_all_that_the_site_takes_from_outside_is_there():
    assert all((ROOT / path).is_file() for path in docs_site.outside())


def test_pictures_are_as_drawn():
    drawn = {f"{name}.svg": draw().svg() for name, draw in draw_concepts.PICTURES.items()}
    assert {path.name: path.read_text() for path in (ROOT / "docs" / "pictures").glob("*.svg")} == drawn
