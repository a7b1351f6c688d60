#!/usr/bin/env python
"""Writes the table of methods in docs/methods.md anew, from what each method's file says.

python scripts/method_table.py
"""

from pathlib import Path

from subp.pruning.methods.documentation import with_table
from subp_contract.files import write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"

if __name__ == "__main__":
    write_atomically(PAGE, with_table(PAGE.read_text()).encode())
