"""The table of methods in docs/methods.md, from what each method says of itself."""

from subp.pruning.methods.registry import DENSE, METHODS
from subp_contract.errors import require

_BEGIN, _END = "<!-- methods: made by scripts/method_table.py -->", "<!-- /methods -->"


def table() -> str:
    """Markdown, a row for each method."""
    rows = [
        ("name", "prunes", "mask at epoch t", "gradient to pruned weights", "own hyperparameters", "source"),
        ("---",) * 6,
        (f"`{DENSE}`", "nothing", "", "", "", ""),
    ]
    for method in METHODS.values():
        gradient = "yes, + decay * w" if method.soft else "no"
        own = ", ".join(f"`{name}` {value}" for name, value in vars(method.options()).items())
        rows.append((f"`{method.name}`", method.prunes, method.masks, gradient, own, method.source))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(page: str) -> str:
    """The page with the table as it is now between its two marks. Raises UserError for a page without them."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    require(bool(begin and end), f"the page lacks {_BEGIN} or, after it, {_END}")
    return f"{before}{begin}\n\n{table()}\n{end}{after}"
