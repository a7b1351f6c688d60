"""`SparsityConfig`: what `Sparsifier` may be asked, in groups that belong together.

The fields are the arguments of `Sparsifier`, by the same names and with the same defaults; what each means, its
docstring says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from subp.pruning.settings import PruningOptions

_DEFAULT = PruningOptions()


@dataclass(frozen=True)
class Pattern:
    """What is kept or pruned together."""

    n: int = _DEFAULT.n
    multiple: int | None = _DEFAULT.multiple
    rearrange: bool = _DEFAULT.rearrange
    arrange_by: str = _DEFAULT.arrange_by


@dataclass(frozen=True)
class Budget:
    """How much is pruned, and how that is shared out among the layers."""

    sparsity: float | None = _DEFAULT.sparsity
    target_macs: float | None = _DEFAULT.target_macs
    target_weights: float | None = _DEFAULT.target_weights
    target_latency: float | None = _DEFAULT.target_latency
    target: str = _DEFAULT.target
    vary_n: bool = _DEFAULT.vary_n
    allocation: str = _DEFAULT.allocation
    input_shape: Sequence[int] | None = None


@dataclass(frozen=True)
class Timetable:
    """When: over which epochs, and along which curve."""

    epochs: int = 90
    schedule: str = _DEFAULT.schedule
    start: int | None = _DEFAULT.start
    end: int | None = _DEFAULT.end


@dataclass(frozen=True)
class Choice:
    """By which rule: the method, the scores, and its hyperparameters by name."""

    method: str = _DEFAULT.method
    criterion: str | None = _DEFAULT.criterion
    scoring: str | None = _DEFAULT.scoring
    soft: bool | None = _DEFAULT.soft
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SparsityConfig:
    """All of it: `SparsityConfig(Pattern(n=8), Budget(sparsity=0.9), Timetable(epochs=30))`."""

    pattern: Pattern = Pattern()
    budget: Budget = Budget()
    timetable: Timetable = Timetable()
    choice: Choice = field(default_factory=Choice)
    seed: int = _DEFAULT.seed
    sparse_compute: str | None = None

    def arguments(self) -> dict[str, Any]:
        """`Sparsifier`'s keyword arguments, but for `exclude` and `include`, which a filter decides."""
        groups = asdict(self)
        flat = {"seed": groups.pop("seed"), "sparse_compute": groups.pop("sparse_compute")}
        for group in groups.values():
            flat |= group
        return flat | flat.pop("hyperparameters")
