"""The options of `subp train` that say how to prune: subp.Sparsifier's own, by the same names."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import Field

import click

from subp.cli.options.types import setting
from subp.pruning.budget.allocation import ALLOCATIONS
from subp.pruning.budget.budgets import parse
from subp.pruning.criteria import CRITERIA
from subp.pruning.methods import DENSE, METHODS, Method
from subp.pruning.methods.registry import hyperparameters
from subp.pruning.schedules import SCHEDULES
from subp.pruning.scoring import SCORINGS
from subp.pruning.settings import ARRANGEMENTS
from subp.training.presets import PRESETS
from subp_contract.errors import UserError, require


class BudgetParam(click.ParamType):
    """A fraction, or a number such as 1.03G."""

    name = "budget"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else parse(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


def _described(helps: Mapping[str, str]) -> str:
    """'l1: its L1 norm; l2: its L2 norm.'"""
    return "; ".join(f"{name}: {help}" for name, help in helps.items()) + "."


def _defaults(of: Callable[[Method], str | None]) -> str:
    """What methods default to, that of most of them last: 'bpar for subp, l2 for filter, else l1'."""
    defaults = {name: default for name, method in METHODS.items() if (default := of(method)) is not None}
    usual = Counter(defaults.values()).most_common(1)[0][0]
    names = {value: [name for name in defaults if defaults[name] == value] for value in defaults.values()}
    others = [f"{value} for {' and '.join(names[value])}, " for value in names if value != usual]
    return "".join(others) + (f"else {usual}" if others else usual)


def _hyperparameter(field: Field) -> Callable:
    """The option of a method's, a criterion's or soft training's hyperparameter: --tau, or a pair --flag/--no-flag."""
    name, flag = f"--{field.name.replace('_', '-')}", isinstance(field.default, bool)
    declared = f"{name}/--no-{name.removeprefix('--')}" if flag else name
    return click.option(declared, default=field.default, show_default=True, help=field.metadata["help"])


_OPTIONS = (
    setting(
        "--method",
        "What is pruned, and how. "
        + _described({name: method.help for name, method in METHODS.items()} | {DENSE: "nothing"}),
        type=click.Choice((DENSE, *METHODS)),
        metavar="NAME",
    ),
    setting(
        "--n",
        "Block size: output channels that are kept or pruned together; in layers that it does not divide a half, a "
        "quarter, ..., of it.",
    ),
    setting(
        "--sparsity",
        "Fraction of each group's blocks (of all pruned layers' weights together, where --allocation is not equal) "
        "that is pruned in the end, from 0 to below 1.  [default: 0.75]",
        type=float,
    ),
    setting(
        "--target-macs",
        "Multiply-accumulates of the whole network for an image, in place of --sparsity: 0.25 for a quarter of the "
        "dense network's, or a number such as 1.03G.",
        type=BudgetParam(),
    ),
    setting(
        "--target-weights",
        "Weights of the whole network, in place of --sparsity: a fraction, or a number such as 2.9M.",
        type=BudgetParam(),
    ),
    setting(
        "--target-latency",
        "Predicted time of the network on --target, in place of --sparsity: a fraction of the dense one's; layers get "
        "the sparsities that keep most weights.",
        type=float,
    ),
    setting("--target", "CPU for --target-latency: a name that `subp doctor` lists, or a file NAME.json."),
    setting("--vary-n", "Let layers also take blocks of half or twice as many outputs as --n, with --target-latency."),
    setting(
        "--allocation",
        f"How pruning is shared out among layers. {_described(ALLOCATIONS)}",
        type=click.Choice(list(ALLOCATIONS)),
    ),
    setting(
        "--multiple",
        "Each group keeps a multiple of so many blocks in the end, within the same budget: int8 kernels multiply four "
        "channels at a time.  [default: 4 with --qat, else 1]",
        type=int,
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        metavar="NAME",
        help=f"Model, sparsity and layers left dense as the SUBP paper has them: {', '.join(PRESETS)}; other options "
        "still hold.",
    ),
    click.option(
        "--as-published",
        is_flag=True,
        help="Take also what the SUBP authors' code sets, with --preset: schedule x^3, tau 1, epochs, batch size and "
        "so on (docs/methods.md); other options still hold.",
    ),
    setting(
        "--criterion",
        f"Score of a block. {_described({name: criterion.help for name, criterion in CRITERIA.items()})}  "
        f"[default: {_defaults(lambda method: next(iter(method.criteria), None))}]",
        type=click.Choice(list(CRITERIA)),
    ),
    setting(
        "--scoring",
        f"How pruned blocks are scored. {_described({name: scoring.help for name, scoring in SCORINGS.items()})}  "
        f"[default: {_defaults(lambda method: method.scorings[0])}]",
        type=click.Choice(list(SCORINGS)),
    ),
    setting("--schedule", "How the pruning rate climbs over the epochs.", type=click.Choice(list(SCHEDULES))),
    setting("--start", "Epochs before it begins to climb; 0 to prune at once.  [default: 4 % of the epochs]", type=int),
    setting("--end", "Epochs before it is at the sparsity.  [default: 72 % of the epochs]", type=int),
    click.option(
        "--soft/--hard",
        default=None,
        help="Gradients reach pruned weights too, straight through, or do not.  [default: the method's]",
    ),
    *(_hyperparameter(field) for field in hyperparameters().values()),
    setting(
        "--rearrange",
        "First fold filters in another order into the network, wherever that leaves its function as it is.",
    ),
    setting("--arrange-by", f"That order. {_described(ARRANGEMENTS)}", type=click.Choice(list(ARRANGEMENTS))),
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


def with_preset(name: str | None, given: dict, as_published: bool = False) -> dict:
    """The settings given, and those of the preset of that name, perhaps as published, where they say nothing."""
    if name is None:
        require(not as_published, "--as-published is said of a preset: give --preset, too")
        return given
    chosen = PRESETS[name].settings(as_published)
    if given.keys() & {"target_macs", "target_weights", "target_latency"}:
        del chosen["sparsity"]
    return chosen | given
