"""What the masks of a run depend on, besides weights and epoch: checked when made, with each method's own defaults."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from subp.pruning import schedules
from subp.pruning.budget.allocation import ALLOCATIONS
from subp.pruning.methods import METHODS, sr_ste
from subp_contract.errors import require

SCORINGS = ("masked", "active", "weight")


@dataclass(frozen=True)
class Settings:
    """What the masks depend on, besides weights and epoch. Checked when made."""

    n: int
    m: int
    sparsity: float | None  # of this and the two targets exactly one is given
    target_macs: float | None
    target_weights: float | None
    allocation: str
    method: str
    criterion: str | None
    scoring: str
    schedule: str
    epochs: int
    start: int
    end: int
    tau: float
    alpha: float
    soft: bool
    decay: float
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        require(self.n >= 1, f"n = {self.n}: a block has at least 1 output")
        require(self.m >= 1, f"m = {self.m}: a group has at least 1 input")
        given = [option for option in (self.sparsity, self.target_macs, self.target_weights) if option is not None]
        require(len(given) == 1, "sparsity, target_macs and target_weights exclude each other: give one of them")
        require(
            self.sparsity is None or 0 <= self.sparsity < 1,
            f"sparsity = {self.sparsity} is not in [0, 1): it is a fraction, 0.75 for 75 %",
        )
        _known("allocation", self.allocation, ALLOCATIONS)
        _known("schedule", self.schedule, schedules.SCHEDULES)
        _known(f"scoring of {self.method}", self.scoring, METHODS[self.method].scorings)
        if METHODS[self.method].criteria:
            _known(f"criterion of {self.method}", self.criterion, METHODS[self.method].criteria)
        else:
            require(self.criterion is None, f"{self.method} has no criterion to choose: leave it out")
        n_of_m = METHODS[self.method].uses_m
        require(
            not n_of_m or self.allocation == "equal",
            f"{self.method} keeps N of M weights in every layer: it has no allocation but equal, not {self.allocation}",
        )
        require(
            not n_of_m or self.sparsity is None or sr_ste.kept_of(self.m, self.sparsity) is not None,
            f"sparsity = {self.sparsity} leaves no whole number of {self.m} weights: "
            f"choose it and m so that (1 - sparsity) * m is whole, such as 0.5 and 4 for 2:4",
        )
        require(self.epochs >= 1, f"epochs = {self.epochs}: there must be at least 1")
        require(
            0 <= self.start <= self.end < self.epochs,
            f"the schedule, from epoch {self.start} to {self.end}, must lie within epochs 0 to {self.epochs - 1}",
        )
        require(self.tau > 0, f"tau = {self.tau}: a temperature is above 0")
        require(math.isfinite(self.alpha), f"alpha = {self.alpha} is not finite")
        require(0 <= self.decay < math.inf, f"decay = {self.decay}: it is a number of at least 0")

    @classmethod
    def completed(cls, **options) -> "Settings":
        """The settings of these options: what is None among them is as the method and the number of epochs have it."""
        _known("method", options["method"], METHODS)
        method = METHODS[options["method"]]
        defaults = {
            "criterion": method.criteria[0] if method.criteria else None,
            "scoring": method.scorings[0],
            "soft": method.soft,
        }
        start, end = options["start"], options["end"]
        first, last = (0, 0) if method.one_shot else schedules.default_span(options["epochs"])
        if end is None:
            late = start is not None and start > last
            end = last if not late else start if method.one_shot else max(start, options["epochs"] - 1)
        targets = (options["target_macs"], options["target_weights"])
        defaults |= {"start": min(first, end), "end": end, "sparsity": 0.75 if targets == (None, None) else None}
        return cls(**options | {name: value for name, value in defaults.items() if options[name] is None})


def _known(kind: str, name: str | None, names: Collection[str]) -> None:
    require(name in names, f"there is no {kind} {name!r}: choose from {', '.join(names)}")
