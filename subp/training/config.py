"""The settings of a training run."""

import math
from dataclasses import dataclass

from subp.data.policies import AUTO_AUGMENT
from subp_contract.errors import require

AMP = {"bf16": "bfloat16", "fp16": "float16"}  # -> PyTorch's names
MACHINE = ("workers", "device", "skip_broken", "tensorboard")  # settings that a resumed run may change
SPARSIFIER = (  # settings that are subp.Sparsifier's options
    *(
        "method",
        "n",
        "m",
        "sparsity",
        "target_macs",
        "target_weights",
        "allocation",
        "criterion",
        "scoring",
        "schedule",
    ),
    *("start", "end", "tau", "alpha", "soft", "decay", "rearrange", "exclude", "include", "epochs", "seed"),
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
    allocation: str = "equal"  # a name in subp.allocation.ALLOCATIONS
    criterion: str | None = None
    scoring: str | None = None
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
    mixup: float = 0.0  # parameters of beta distributions; 0: not
    cutmix: float = 0.0
    random_erase: float = 0.0  # probability
    auto_augment: str | None = None  # a name in AUTO_AUGMENT
    ema: float = 0.0  # what an average of the weights keeps of itself in a step; 0: no average
    accumulate: int = 1  # parts in which a batch passes through the network
    amp: str | None = None  # a name in AMP
    channels_last: bool = False
    compile: bool = False
    sparse_compute: bool = False  # leave pruned blocks out of 1x1 convolutions' products
    seed: int = 0
    workers: int = 0
    device: str = "cpu"
    skip_broken: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: there must be at least 1")
        for name in ("weight_decay", "warmup_epochs", "workers"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} is below 0")
        require(0 < self.lr < math.inf, f"lr = {self.lr}: a learning rate is a number above 0")
        for name in ("label_smoothing", "ema"):
            require(0 <= getattr(self, name) < 1, f"{name} = {getattr(self, name)} is not in [0, 1)")
        for name in ("mixup", "cutmix"):
            require(
                0 <= getattr(self, name) < math.inf, f"{name} = {getattr(self, name)} is not a number of at least 0"
            )
        require(0 <= self.random_erase <= 1, f"random_erase = {self.random_erase} is not in [0, 1]")
        for name, known in (("amp", AMP), ("auto_augment", AUTO_AUGMENT)):
            value = getattr(self, name)
            require(value is None or value in known, f"there is no {name} {value!r}: choose from {', '.join(known)}")


def as_typed(name: str, value: object) -> str:
    """How a setting of this value is given to `subp train`: "--lr 0.1", "--hard", "no --sparsity"."""
    option = f"--{name.replace('_', '-')}"
    if name == "soft":
        return {True: "--soft", False: "--hard", None: "neither --soft nor --hard"}[value]
    if isinstance(value, (list, tuple)):
        return " ".join(f"{option} {item}" for item in value) or f"no {option}"
    if value is None or isinstance(value, bool):
        return option if value else f"no {option}"
    return f"{option} {value}"
