"""How to prune, as it is asked for (`PruningOptions`) and as it is settled for one run (`Settings`). Both are free of
PyTorch, for `--help`.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from subp.common.plain import settle
from subp.pruning import schedules
from subp.pruning.budget.allocation import ALLOCATIONS
from subp.pruning.criteria import CRITERIA
from subp.pruning.hyperparameters import Hyperparameters, Own
from subp.pruning.methods import DEFAULT, METHODS, Method
from subp.pruning.methods.base import SoftTraining
from subp.pruning.methods.registry import hyperparameters
from subp_contract.arguments import whole_number
from subp_contract.errors import require

ARRANGEMENTS = {
    "norm": "sorted by L1 norm",
    "assignment": "dealt out so that each group keeps most of its L1 norm",
}  # of filters, see channels/
WAYS = ("kernels",)  # to leave pruned blocks out of the products in training, see sparse_compute.py


@dataclass(frozen=True)
class PruningOptions:
    """What `Sparsifier` may be asked, and its defaults; what each means, its docstring says.

    hyperparameters: those given, by name, of the method, the criterion and soft training
    """

    method: str = DEFAULT
    n: int = 16
    sparsity: float | None = None  # 0.75 without a target
    target_macs: float | None = None
    target_weights: float | None = None
    target_latency: float | None = None
    target: str = "host"
    vary_n: bool = False
    allocation: str = "equal"
    multiple: int | None = None  # 1
    criterion: str | None = None
    scoring: str | None = None
    schedule: str = "cubic-ease-out"
    start: int | None = None
    end: int | None = None
    soft: bool | None = None
    rearrange: bool = False
    arrange_by: str = "norm"  # a name in ARRANGEMENTS
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    seed: int = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What the masks of a run depend on, besides weights and epoch. Checked when made: raises UserError for what is out
    of range, or not known.
    """

    n: int
    sparsity: float | None  # of this and the three targets exactly one is given
    target_macs: float | None
    target_weights: float | None
    target_latency: float | None
    target: str
    vary_n: bool  # by layer, for a target_latency
    allocation: str
    multiple: int
    method: str
    criterion: str | None
    scoring: str
    schedule: str
    epochs: int
    start: int
    end: int
    soft: bool
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    seed: int
    hyperparameters: Mapping[str, Any]  # those given

    def __post_init__(self) -> None:
        settle(self)
        _known("method", self.method, METHODS)
        method = METHODS[self.method]
        require(self.n >= 1, f"n = {self.n}: a block has at least 1 output")
        aims = (self.sparsity, self.target_macs, self.target_weights, self.target_latency)
        require(
            len(aims) - aims.count(None) == 1,
            "sparsity, target_macs, target_weights and target_latency exclude each other: give one of them",
        )
        self._check_latency(method)
        require(
            self.sparsity is None or 0 <= self.sparsity < 1,
            f"sparsity = {self.sparsity} is not in [0, 1): it is a fraction, 0.75 for 75 %",
        )
        _known("allocation", self.allocation, ALLOCATIONS)
        require(self.multiple >= 1, f"multiple = {self.multiple}: a group keeps a multiple of at least 1 block")
        require(
            self.multiple == 1 or method.keeps_multiples,
            f"{self.method} has no groups of blocks of which to keep a multiple of {self.multiple}: leave multiple out",
        )
        _known("schedule", self.schedule, schedules.SCHEDULES)
        _known(f"scoring of {self.method}", self.scoring, method.scorings)
        if method.criteria:
            _known(f"criterion of {self.method}", self.criterion, method.criteria)
        else:
            require(self.criterion is None, f"{self.method} has no criterion to choose: leave it out")
        require(self.epochs >= 1, f"epochs = {self.epochs}: there must be at least 1")
        require(
            0 <= self.start <= self.end < self.epochs,
            f"the schedule, from epoch {self.start} to {self.end}, must lie within epochs 0 to {self.epochs - 1}",
        )
        self._check_hyperparameters(method)

    def _check_latency(self, method: Method) -> None:
        if self.target_latency is None:
            require(not self.vary_n, "vary_n lets layers choose N for a target_latency: give that too, or leave it out")
            return
        require(
            0 < self.target_latency <= 1,
            f"target_latency = {self.target_latency} is not in (0, 1]: it is a fraction of the dense network's time",
        )
        require(
            method.uses_n and method.unit == "block" and not method.ranks_layer,
            f"target_latency is for methods whose groups keep equally many blocks, not {self.method}",
        )
        require(
            not (self.vary_n and method.regroups),
            f"{self.method} regroups outputs by one N for all layers: leave vary_n out",
        )
        require(
            self.allocation == "equal" and self.multiple == 1,
            "target_latency shares pruning out by itself: leave out allocation and multiple",
        )

    def _check_hyperparameters(self, method: Method) -> None:
        unknown = [name for name in self.hyperparameters if name not in hyperparameters()]
        own = ", ".join(each.name for cls in _classes(method) for each in fields(cls))
        require(not unknown, f"{self.method} has no hyperparameter {' or '.join(unknown)}: it has {own}")
        for cls in {each for of_any in METHODS.values() for each in _classes(of_any)}:
            self.options(cls)  # those that another method has are checked too, though nothing asks for them
        method.check(self.sparsity, self.allocation, self.options(method.options))

    def options(self, cls: type[Own]) -> Own:
        """The hyperparameters of that class, given or by default."""
        return cls.among(self.hyperparameters)

    @property
    def words(self) -> str:
        """The main ones, for whoever looks at an object."""
        return f"{self.method}, n = {self.n}, sparsity = {self.sparsity}, {self.epochs} epochs"

    def as_dict(self) -> dict[str, Any]:
        """All settings by name, JSON-able, for files: every hyperparameter there is stands among the others."""
        return flat(asdict(self))

    @classmethod
    def completed(cls, **options: Any) -> "Settings":
        """The settings of these options: what is None among them is as the method and the number of epochs have it."""
        _known("method", options["method"], METHODS)
        method = METHODS[options["method"]]
        for name in ("epochs", "start", "end"):
            if options[name] is not None:
                options[name] = whole_number(name, options[name])
        defaults: dict[str, Any] = {
            "criterion": method.criteria[0] if method.criteria else None,
            "scoring": method.scorings[0],
            "soft": method.soft,
            "multiple": 1,
        }
        start, end = options["start"], options["end"]
        first, last = (0, 0) if method.one_shot else schedules.default_span(options["epochs"])
        if end is None:
            late = start is not None and start > last
            end = last if not late else start if method.one_shot else max(start, options["epochs"] - 1)
        aimed = any(options[name] is not None for name in ("target_macs", "target_weights", "target_latency"))
        defaults |= {"start": min(first, end), "end": end, "sparsity": None if aimed else 0.75}
        return cls(**options | {name: value for name, value in defaults.items() if options[name] is None})


def _classes(method: Method) -> list[type[Hyperparameters]]:
    """Whose fields are the hyperparameters of a run of the method."""
    return [method.options, *(CRITERIA[name].options for name in method.criteria), SoftTraining]


def _known(kind: str, name: str | None, names: Collection[str]) -> None:
    require(name in names, f"there is no {kind} {name!r}: choose from {', '.join(names)}")


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name with all hyperparameters, given or by default, in place of the entry `hyperparameters`.

    Raises UserError where one of them has a setting's name.
    """
    others = {name: value for name, value in settings.items() if name != "hyperparameters"}
    defaults = {name: each.default for name, each in hyperparameters().items()}
    twice = sorted(others.keys() & defaults.keys())
    require(not twice, f"the hyperparameter {', '.join(twice)} has the name of a setting: give it another")
    return others | defaults | settings["hyperparameters"]


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flat`: hyperparameters under an entry of their own."""
    own = hyperparameters()
    others = {name: value for name, value in settings.items() if name not in own}
    return others | {"hyperparameters": {name: value for name, value in settings.items() if name in own}}
