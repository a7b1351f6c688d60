"""The options of `subp train` that say how to prune: subp.Sparsifier's own, by the same names."""

from collections.abc import Callable

import click

from subp.cli.options import setting
from subp.pruning.budget.budgets import parse
from subp.pruning.schedules import SCHEDULES
from subp.training.presets import PRESETS
from subp_contract.errors import UserError

# Named here too, so that `--help` need not import PyTorch; a test compares them.
METHODS = (
    "dense",
    "subp",
    "nonuniform",
    "random",
    "magnitude",
    "filter",
    "one-by-n",
    "one-by-n-uniform",
    "hrbp",
    "hrbp++",
    "sr-ste",
)
CRITERIA = ("l1", "l2", "bpar")
SCORINGS = ("masked", "active", "weight")
ALLOCATIONS = ("equal", "erk", "global")


class Budget(click.ParamType):
    """A fraction, or a number such as 1.03G."""

    name = "budget"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else parse(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


_OPTIONS = (
    setting(
        "--method",
        "subp: uniform 1xN, pruned and regrown while training; nonuniform: 1xN ranked over a whole layer; random: "
        "uniform "
        "1xN by lot; magnitude: single weights, gradually; filter: whole output filters; "
        "one-by-n: 1xN ranked over a layer, at once, for a network that --weights brings; one-by-n-uniform: in each "
        "group; "
        "hrbp: uniform 1xN, blocks of filters that are grouped while training; hrbp++: the same, and parts of kernels; "
        "sr-ste: N:M; dense: nothing.",
        type=click.Choice(METHODS),
    ),
    setting(
        "--n",
        "Block size: output channels that are kept or pruned together; in layers that it does not divide a half, a "
        "quarter, ..., of it.",
    ),
    setting("--m", "Of sr-ste's N:M, with N = (1 - sparsity) * M."),
    setting(
        "--sparsity",
        "Fraction of each group's blocks (of all pruned layers' weights together, where --allocation is not equal) "
        "that is "
        "pruned in the end, from 0 to below 1.  [default: 0.75]",
        type=float,
    ),
    setting(
        "--target-macs",
        "Instead: the whole network's multiply-accumulates for an image, 0.25 for a quarter of the dense network's, "
        "or a "
        "number such as 1.03G.",
        type=Budget(),
    ),
    setting(
        "--target-weights", "Instead: the whole network's weights, a fraction or a number such as 2.9M.", type=Budget()
    ),
    setting(
        "--allocation",
        "How pruning is shared out among layers. equal: all the same sparsity; erk: by their shapes, wide layers "
        "more; global: by "
        "their weights at the beginning, for a network that --weights brings.",
        type=click.Choice(ALLOCATIONS),
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Model, sparsity and layers left dense as the SUBP paper has them; other options still hold.",
    ),
    setting(
        "--criterion",
        "Score of a block: its L1 norm, its L2 norm, or its share of the norm less its angular redundancy.  "
        "[default: bpar for subp, l2 for filter, else l1]",
        type=click.Choice(CRITERIA),
    ),
    setting(
        "--scoring",
        "Of pruned blocks. masked: as zeros, so that they rank last and tie; weight: by the weights that they train; "
        "active: "
        "likewise, but kept ones rank before them.  [default: masked for subp and nonuniform, else weight]",
        type=click.Choice(SCORINGS),
    ),
    setting("--schedule", "How the pruning rate climbs over the epochs.", type=click.Choice(list(SCHEDULES))),
    setting(
        "--start", "Epoch at which it begins to climb.  [default: 4 % of the epochs; 0 to prune at once]", type=int
    ),
    setting("--end", "Epoch at which it is at the sparsity.  [default: 72 % of the epochs]", type=int),
    setting("--tau", "Temperature of regrowing: towards 0 the best of the pruned blocks, large values any."),
    setting("--alpha", "Weight of the redundancy in bpar."),
    click.option(
        "--soft/--hard",
        default=None,
        help="Gradients reach pruned weights too, straight through, or do not.  [default: the method's]",
    ),
    setting("--decay", "Added to the straight-through gradient of pruned weights, times the weight (SR-STE)."),
    setting(
        "--rearrange",
        "First fold filters sorted by L1 norm into the network, wherever that leaves its function as it is.",
    ),
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


def with_preset(name: str | None, given: dict) -> dict:
    """The settings given, and those of the preset of that name where they say nothing."""
    if name is None:
        return given
    preset = PRESETS[name]
    chosen = {"model": preset.model, "sparsity": preset.sparsity, "exclude": preset.exclude}
    if given.keys() & {"target_macs", "target_weights"}:
        del chosen["sparsity"]
    return chosen | given
