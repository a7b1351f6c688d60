"""The options of `subp train` that say how to prune: subp.Sparsifier's own, by the same names."""

from collections.abc import Callable

import click

from subp.config import Config
from subp.schedules import SCHEDULES

# Named here too, so that `--help` need not import PyTorch; a test compares them.
METHODS = ("dense", "subp", "nonuniform", "random", "magnitude", "filter", "sr-ste")
CRITERIA = ("l1", "l2", "bpar")
SCORINGS = ("weight", "masked")


def _option(name: str, kind: object, help_: str, **more) -> Callable:
    default = getattr(Config, name.lstrip("-").replace("-", "_"))
    return click.option(name, type=kind, default=default, show_default=default is not None, help=help_, **more)


_OPTIONS = (
    _option(
        "--method",
        click.Choice(METHODS),
        "subp: uniform 1xN, pruned and regrown while training; nonuniform: 1xN ranked over a whole layer; random: uniform "
        "1xN by lot; magnitude: single weights, gradually; filter: whole output filters; sr-ste: N:M; dense: nothing.",
    ),
    _option("--n", int, "Block size: output channels that are kept or pruned together."),
    _option("--m", int, "Of sr-ste's N:M, with N = (1 - sparsity) * M."),
    _option("--sparsity", float, "Fraction of each group's blocks that is pruned in the end, from 0 to below 1."),
    _option(
        "--criterion",
        click.Choice(CRITERIA),
        "Score of a block: its L1 norm, its L2 norm, or its share of the norm less its angular redundancy.  "
        "[default: bpar for subp, l2 for filter, else l1]",
    ),
    _option(
        "--scoring",
        click.Choice(SCORINGS),
        "Whether pruned blocks are scored by the weights that they still train, or as zeros, which tie.",
    ),
    _option("--schedule", click.Choice(list(SCHEDULES)), "How the pruning rate climbs over the epochs."),
    _option("--start", int, "Epoch at which it begins to climb.  [default: 4 % of the epochs; 0 to prune at once]"),
    _option("--end", int, "Epoch at which it is at the sparsity.  [default: 72 % of the epochs]"),
    _option("--tau", float, "Temperature of regrowing: towards 0 the best of the pruned blocks, large values any."),
    _option("--alpha", float, "Weight of the redundancy in bpar."),
    click.option(
        "--soft/--hard",
        default=None,
        help="Gradients reach pruned weights too, straight through, or do not.  [default: the method's]",
    ),
    _option("--decay", float, "Added to the straight-through gradient of pruned weights, times the weight (SR-STE)."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Also leave layers dense whose name matches, such as '*.downsample.*'; repeatable.",
    ),
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="Prune layers whose name matches although they are stem or classifier; repeatable.",
    ),
)


def method_options(command: Callable) -> Callable:
    """Adds the options to a command, which gets them by the names of `Config`'s fields."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
