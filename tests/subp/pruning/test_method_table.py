"""docs/methods.md says of the methods what their files say."""

from pathlib import Path

import pytest

from subp.pruning.methods import METHODS
from subp.pruning.methods.documentation import table, with_table
from subp_contract.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"


def test_the_page_has_the_table_of_the_methods_there_are():
    assert with_table(PAGE.read_text()) == PAGE.read_text()  # else: python scripts/method_table.py


def test_the_table_has_a_row_a_method_with_its_hyperparameters():
    rows = {row.split(" | ")[0].strip("| `"): row for row in table().splitlines()}
    assert list(rows) == ["name", "---", "dense", *METHODS]
    assert "`m` 4" in rows["sr-ste"] and "`tau` 0.01" in rows["subp"]
    assert "| no |" in rows["random"] and "| yes, + decay * w |" in rows["hrbp"]


def test_a_page_without_the_marks_is_told():
    with pytest.raises(UserError, match="the page lacks <!-- methods"):
        with_table("# Methods\n")
