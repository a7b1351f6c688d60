"""The settings of a training run."""

import math
from dataclasses import dataclass

from subp.errors import require

MACHINE = ("workers", "device")  # settings that a resumed run may change
SPARSIFIER = (  # settings that are subp.Sparsifier's options
    *("method", "n", "m", "sparsity", "target_macs", "target_weights", "criterion", "scoring", "schedule", "start", "end"),
    *("tau", "alpha", "soft", "decay", "rearrange", "exclude", "include", "epochs", "seed"),
)


@dataclass(frozen=True)
class Config:
    """One run: what is trained, then how. Checked when made."""

    model: str = "resnet18"
    method: str = "subp"  # or "dense"; the options up to `include` are subp.Sparsifier's
    n: int = 16
    m: int = 4
    sparsity: float | None = None  # 0.75 without a target
    target_macs: float | None = None
    target_weights: float | None = None
    criterion: str | None = None
    scoring: str = "weight"
    schedule: str = "cubic-ease-out"
    start: int | None = None
    end: int | None = None
    tau: float = 0.01
    alpha: float = 1.0
    soft: bool | None = None
    decay: float = 2e-4
    rearrange: bool = False  # sort the filters by L1 norm first
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    epochs: int = 90
    batch_size: int = 128
    lr: float = 0.1  # at its highest
    weight_decay: float = 1e-4  # not on biases and norms
    label_smoothing: float = 0.1
    warmup_epochs: int = 0
    seed: int = 0
    workers: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: there must be at least 1")
        for name in ("weight_decay", "warmup_epochs", "workers"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} is below 0")
        require(0 < self.lr < math.inf, f"lr = {self.lr}: a learning rate is a number above 0")
        require(0 <= self.label_smoothing < 1, f"label_smoothing = {self.label_smoothing} is not in [0, 1)")
