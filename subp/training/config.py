"""The settings of a training run."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from subp.common.plain import settle
from subp.data.policies import AUTO_AUGMENT
from subp.pruning.methods import DENSE, METHODS
from subp.pruning.settings import WAYS, PruningOptions, flat, nested
from subp_contract.errors import require
from subp_quantizer import WEIGHT_BITS

AMP = {"bf16": "bfloat16", "fp16": "float16"}  # -> PyTorch's names
DOT_PRODUCT = 4  # channels that int8 kernels multiply at a time
MACHINE = ("workers", "device", "skip_broken", "tensorboard")  # settings that a resumed run may change
MOST = {"epochs": 10**6, "batch_size": 2**20, "accumulate": 2**16, "workers": 1024}  # which nobody means to exceed


@dataclass(frozen=True)
class Config(PruningOptions):
    """One run: what is trained and how, and from `PruningOptions` how it is pruned; its `method` may be DENSE, not to
    prune. Checked when made, but for the options of pruning, which `Sparsifier` checks.
    """

    model: str = "resnet18"
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
    qat: int = 0  # the last of the epochs, which train for 8 bits
    weight_bits: int = 8  # of weights there: 8, or 7
    sparse_compute: str | None = None  # a name in WAYS, to leave pruned blocks out of the products
    workers: int = 0
    device: str = "cpu"
    skip_broken: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        settle(self)
        for name in ("epochs", "batch_size", "accumulate"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: there must be at least 1")
        for name in ("weight_decay", "warmup_epochs", "workers", "qat"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} is below 0")
        for name, most in MOST.items():
            require(getattr(self, name) <= most, f"{name} = {getattr(self, name)} is more than {most:,}")
        require(
            self.warmup_epochs <= self.epochs,
            f"warmup_epochs = {self.warmup_epochs}: there are only {self.epochs} epochs",
        )
        require(self.weight_bits in WEIGHT_BITS, f"weight_bits = {self.weight_bits}: weights have 7 or 8 bits")
        require(self.qat <= self.epochs, f"qat = {self.qat}: there are only {self.epochs} epochs")
        require(
            not self.qat or self.end is None or self.end < self.float_epochs or not self.float_epochs,
            f"end = {self.end}: masks are settled before the last {self.qat} of {self.epochs} epochs, which train for "
            f"8 bits; end at {self.float_epochs - 1} at the latest",
        )
        require(0 < self.lr < math.inf, f"lr = {self.lr}: a learning rate is a number above 0")
        for name in ("label_smoothing", "ema"):
            require(0 <= getattr(self, name) < 1, f"{name} = {getattr(self, name)} is not in [0, 1)")
        for name in ("mixup", "cutmix"):
            require(
                0 <= getattr(self, name) < math.inf, f"{name} = {getattr(self, name)} is not a number of at least 0"
            )
        require(0 <= self.random_erase <= 1, f"random_erase = {self.random_erase} is not in [0, 1]")
        for name, known in (("amp", AMP), ("auto_augment", AUTO_AUGMENT), ("sparse_compute", WAYS)):
            value = getattr(self, name)
            require(value is None or value in known, f"there is no {name} {value!r}: choose from {', '.join(known)}")

    @property
    def float_epochs(self) -> int:
        """The epochs before those of `qat`."""
        return self.epochs - self.qat

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Config":
        """From settings by name, hyperparameters among them, as `as_dict` has them, files and the command line.

        Raises UserError for a name that no setting has.
        """
        unknown = settings.keys() - cls.defaults().keys()
        require(not unknown, f"there is no setting {', '.join(sorted(unknown))}")
        return cls(**nested(up_to_date(settings)))

    def as_dict(self) -> dict[str, Any]:
        """All settings by name, JSON-able, hyperparameters among them."""
        return {"model": self.model} | flat(asdict(self))

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every setting's default, by name."""
        return cls().as_dict()

    def sparsifier_options(self) -> dict[str, Any] | None:
        """What `Sparsifier` is to be given; None for dense training. Its schedule ends before the epochs of `qat`."""
        if self.method == DENSE:
            return None
        given = {each.name: getattr(self, each.name) for each in fields(PruningOptions)}
        if self.multiple is None and self.qat and self.method in METHODS and METHODS[self.method].keeps_multiples:
            given["multiple"] = DOT_PRODUCT
        return {"epochs": max(self.float_epochs, 1)} | given.pop("hyperparameters") | given


def up_to_date(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an older version may have saved, as they are called now."""
    was = settings.get("sparse_compute")  # yes or no, when there was one way
    return {**settings, "sparse_compute": WAYS[0] if was else None} if isinstance(was, bool) else dict(settings)


def as_typed(name: str, value: Any) -> str:
    """How a setting of this value is given to `subp train`: "--lr 0.1", "--hard", "no --sparsity"."""
    option = f"--{name.replace('_', '-')}"
    if name == "soft":
        return {True: "--soft", False: "--hard", None: "neither --soft nor --hard"}[value]
    if isinstance(value, (list, tuple)):
        return " ".join(f"{option} {item}" for item in value) or f"no {option}"
    if value is None or isinstance(value, bool):
        return option if value else f"no {option}"
    return f"{option} {value}"
