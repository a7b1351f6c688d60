"""A benchmark suite: which networks or layers are measured at which sparsities, batches and threads, and what is hoped
for.

It is a JSON file, shipped in suites/ or the user's own:

    about     a sentence
    networks  names of networks, or instead
    layers    single layers: {name, in, out, size, kernel, stride, groups, sparsity}; `size` is the input's height and
              width, and a layer without one is linear; kernel, stride and groups are 1 where they are left out,
              sparsity the suite's own
    sparsity  list of fractions of blocks pruned; 0 is our dense build
    n, size, batch, threads   lists: block sizes [16], image sizes of networks [224], images [1], threads [1]; all
              combinations are measured
    seconds   of measuring, for each engine [3]
    goals     network -> {sparsity: the time hoped for, over D (see rows.py)}

What differs in sparsity only is one `Case`: built together and measured in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from rich.table import Table

from subp_contract.documents import read_json
from subp_contract.errors import UserError, require
from tvm_sched.bench.rows import Row, number

SHIPPED = Path(__file__).parent / "suites"
DEFAULTS = {"n": [16], "size": [224], "batch": [1], "threads": [1]}
SECONDS = 3.0
POSITIVE = "a list of positive whole numbers"


@dataclass(frozen=True)
class LayerShape:
    """A convolution with its bias and a ReLU; a linear layer where `size` is None."""

    name: str
    channels: int
    out_channels: int
    size: int | None = None
    kernel: int = 1
    stride: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Case:
    """A network, or a layer, at one or several sparsities."""

    name: str
    n: int
    sparsities: tuple[float, ...]
    size: int  # of a network's images; 0 for a layer, which has its own
    batch: int
    threads: int
    goals: dict[float, float] = field(default_factory=dict)  # sparsity -> time over D
    layer: LayerShape | None = None

    def __str__(self) -> str:
        parts = [f"1x{self.n}"] if any(self.sparsities) and self.n != 16 else []
        parts += [f"batch {self.batch}"] if self.batch > 1 else []
        parts += [f"{self.threads} threads"] if self.threads > 1 else []
        return ", ".join([self.name, *parts])


@dataclass(frozen=True)
class Suite:
    """The cases of a file, in its order."""

    name: str
    about: str
    cases: list[Case]
    seconds: float  # of measuring, for each engine


def names() -> list[str]:
    """The shipped suites."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def read(name: str) -> Suite:
    """The shipped suite of that name, or the one in a file. Raises UserError, which names what is wrong, otherwise."""
    path = SHIPPED / f"{name}.json" if name in names() else Path(name)
    if not path.is_file():
        raise UserError(f"there is no suite {name}: give a file, or one of {', '.join(names())}")
    content = read_json(path, what="the suite")
    try:
        return parse(path.stem, content)
    except UserError as error:
        raise UserError(f"the suite {path}: {error}") from None


def parse(name: str, content: dict) -> Suite:
    """The suite that a file's content describes."""
    require(isinstance(content, dict), "must be one JSON object")
    known = {"about", "networks", "layers", "sparsity", "seconds", "goals", *DEFAULTS}
    require(set(content) <= known, f"'{min(set(content) - known, default='')}' is none of {', '.join(sorted(known))}")
    require(("networks" in content) != ("layers" in content), "must have either 'networks' or 'layers'")
    lists = {key: content.get(key, default) for key, default in DEFAULTS.items()}
    for key, values in lists.items():
        require(is_list(values, is_whole), f"'{key}' must be {POSITIVE}")
    sparsities = sparsities_of(content.get("sparsity"))
    seconds = content.get("seconds", SECONDS)
    require(is_number(seconds) and seconds > 0, "'seconds' must be a positive number")
    goals = goals_of(content.get("goals", {}), sparsities)
    if "networks" in content:
        require(is_list(content["networks"], lambda each: isinstance(each, str)), "'networks' must be a list of names")
        what = [(network, sparsities, None) for network in content["networks"]]
    else:
        require(is_list(content["layers"], lambda each: isinstance(each, dict)), "'layers' must be a list of objects")
        what = [parsed_layer(layer, sparsities) for layer in content["layers"]]
        lists["size"] = [0]
    unknown = set(goals) - {each for each, *_ in what}
    require(not unknown, f"there is a goal for '{min(unknown, default='')}', which it does not measure")
    return Suite(
        name,
        str(content.get("about", "")),
        [
            Case(each, n, own, size, batch, threads, goals.get(each, {}), layer)
            for (each, own, layer), n, size, batch, threads in product(what, *(lists[key] for key in DEFAULTS))
        ],
        float(seconds),
    )


def parsed_layer(entry: dict, sparsities: tuple[float, ...]) -> tuple[str, tuple[float, ...], LayerShape]:
    """(name, sparsities, shape) of an entry of 'layers'."""
    require(isinstance(entry.get("name"), str), "each layer must have a name")
    name = entry["name"]
    sizes = {key: value for key, value in entry.items() if key not in ("name", "sparsity")}
    known = ("in", "out", "size", "kernel", "stride", "groups")
    require(
        set(sizes) <= set(known),
        f"'{min(set(sizes) - set(known), default='')}' of layer '{name}' is none of {', '.join(known)}",
    )
    whole = {"in", "out"} <= set(sizes) and all(map(is_whole, sizes.values()))
    require(whole, f"'in', 'out' and sizes of layer '{name}' must be positive whole numbers")
    own = sparsities_of(entry["sparsity"]) if "sparsity" in entry else sparsities
    shape = LayerShape(name, sizes.pop("in"), sizes.pop("out"), **sizes)
    divided = shape.channels % shape.groups == shape.out_channels % shape.groups == 0
    require(divided, f"the {shape.groups} groups of layer '{name}' must divide its channels")
    return name, own, shape


def sparsities_of(values) -> tuple[float, ...]:
    """Fractions of blocks pruned, from a file."""
    require(
        is_list(values, lambda each: is_number(each) and 0 <= each < 1),
        "'sparsity' must be a list of numbers from 0 to below 1",
    )
    return tuple(float(each) for each in values)


def goals_of(goals, sparsities: tuple[float, ...]) -> dict[str, dict[float, float]]:
    """network -> {sparsity: time over D}, from a file."""
    objects = isinstance(goals, dict) and all(isinstance(each, dict) for each in goals.values())
    require(objects, "'goals' must be an object of objects, network -> {sparsity: time over D}")
    texts = {str(each): each for each in sparsities} | {f"{each:g}": each for each in sparsities}
    for network, own in goals.items():
        good = all(key in texts and is_number(value) and value > 0 for key, value in own.items())
        require(good, f"the goals of '{network}' must be positive numbers for sparsities that the suite has")
    return {network: {texts[key]: float(value) for key, value in own.items()} for network, own in goals.items()}


def is_list(values, good) -> bool:
    """A list of one or more, all of them good."""
    return isinstance(values, list) and bool(values) and all(map(good, values))


def is_number(value) -> bool:
    """A number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value) -> bool:
    """A positive whole number."""
    return isinstance(value, int) and is_number(value) and value > 0


def summary(results: Sequence[tuple[Case, dict[float, Row]]]) -> Table:
    """A line a case, a column a sparsity: milliseconds, and time over D, beside its goal where there is one."""
    sparsities = sorted({sparsity for case, _ in results for sparsity in case.sparsities})
    table = Table(caption="median ms, and below it time / D, goal, whether it is reached")
    table.add_column("")
    for sparsity in sparsities:
        table.add_column(f"{sparsity:.0%}" if sparsity else "dense", justify="right")
    for case, rows in results:
        table.add_row(str(case), *(cell(rows.get(sparsity)) for sparsity in sparsities))
    return table


def cell(row: Row | None) -> str:
    """A row in two lines; empty without one."""
    if row is None:
        return ""
    goal = "" if row.goal is None else f"  {row.goal:.2f} {'yes' if row.reached else 'NO'}"
    return f"{row.median_ms:.3f}\n{number(row.time_over_d, '.3f')}{goal}"
