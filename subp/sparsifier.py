"""`Sparsifier`: the one place of state. It puts a block mask on every layer to prune and moves the masks on once an
epoch.

    sparsifier = Sparsifier(model, n=16, sparsity=0.75, epochs=90)
    for epoch in range(90):
        sparsifier.step(epoch)                # before the epoch: prune and regrow
        train_one_epoch(model, optimizer)     # your own loop; the optimizer may be older or younger than the sparsifier
    model = sparsifier.fold()                 # plain modules, zeros in place

Fold last: training afterwards fills the zeros again. Make the sparsifier before wrapping the model in
DistributedDataParallel. Masks change the order of a model's parameters, by which an optimizer saves its state: load
that into one made on the same side, before or after the sparsifier, as the one it was saved from.

A step's draws come from a generator seeded with (seed, layer name, epoch) alone. So masks depend on the weights and the
epoch, not on how many steps were taken before nor on PyTorch's global generator; data-parallel ranks, whose weights are
equal, get equal masks; and there is no generator whose state would have to be saved.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp import blocks, masking, schedules
from subp.criteria import CRITERIA, score
from subp.errors import require
from subp.methods import METHODS
from subp.schedules import SCHEDULES
from subp.seeds import generator
from subp.selection import select_layers


@dataclass(frozen=True)
class Settings:
    """What the masks depend on, besides weights and epoch. Checked when made."""

    n: int
    sparsity: float
    method: str
    criterion: str
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
        require(0 <= self.sparsity < 1, f"sparsity = {self.sparsity} is not in [0, 1)")
        for kind, name, known in (
            ("method", self.method, METHODS),
            ("criterion", self.criterion, CRITERIA),
            ("schedule", self.schedule, SCHEDULES),
        ):
            require(name in known, f"there is no {kind} {name!r}: choose from {', '.join(known)}")
        require(self.epochs >= 1, f"epochs = {self.epochs}: there must be at least 1")
        require(
            0 <= self.start <= self.end < self.epochs,
            f"the schedule, from epoch {self.start} to {self.end}, must lie within epochs 0 to {self.epochs - 1}",
        )
        require(self.tau > 0, f"tau = {self.tau}: a temperature is above 0")
        require(math.isfinite(self.alpha), f"alpha = {self.alpha} is not finite")
        require(0 <= self.decay < math.inf, f"decay = {self.decay}: it is a number of at least 0")


@dataclass(frozen=True)
class LayerState:
    """A row of `Sparsifier.summary()`: a layer pruned (`reason` is None), or left dense for a reason (`n` is None)."""

    name: str
    type: str
    n: int | None
    density: float
    reason: str | None


class Sparsifier:
    """Masks on all prunable layers of a model; see the module's docstring for the use.

    model:           any nn.Module; its Conv2d and Linear layers, and the input projections of MultiheadAttention, are
                     pruned where n divides their outputs (of each group, if grouped)
    n:               outputs in a block
    sparsity:        fraction of each group's blocks that is pruned in the end, in [0, 1)
    method:          a name in subp.methods.METHODS
    criterion:       a name in subp.criteria.CRITERIA: "l1", "l2", "bpar"
    schedule:        a name in subp.schedules.SCHEDULES, running from epoch `start` to epoch `end`; both default to the
                     paper's 10 and 180 of 250 epochs, in proportion to `epochs`; `end` to the last epoch where
                     `start` is later than that
    tau:             temperature of regrowing, see subp.methods.subp
    alpha:           weight of the redundancy in "bpar"
    soft:            gradients reach pruned weights too, with `decay` * weight added there (SR-STE); else they get none
    decay:           see `soft`; added in every backward pass: twice for a layer used twice, once a micro-batch where
                     gradients are accumulated, and weakened as many times as a loss is scaled up (fp16); `decay_in`
                     adds it once a step of the optimizer
    exclude:         patterns (fnmatch) of names of layers to leave dense, besides stem, depthwise and classifier
    include:         patterns of names of layers to prune although they are the stem or the classifier
    seed:            of the draws

    Raises UserError for settings out of range and for models with nothing to prune.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        n: int = 16,
        sparsity: float = 0.75,
        method: str = "subp",
        criterion: str = "bpar",
        schedule: str = "cubic-ease-out",
        epochs: int,
        start: int | None = None,
        end: int | None = None,
        tau: float = 0.01,
        alpha: float = 1.0,
        soft: bool = True,
        decay: float = 2e-4,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        default_start, default_end = schedules.default_span(epochs)
        if end is None:
            end = default_end if start is None or start <= default_end else max(start, epochs - 1)
        start = min(default_start, end) if start is None else start
        self.settings = Settings(
            n=n,
            sparsity=sparsity,
            method=method,
            criterion=criterion,
            schedule=schedule,
            epochs=epochs,
            start=start,
            end=end,
            tau=tau,
            alpha=alpha,
            soft=soft,
            decay=decay,
            exclude=tuple(exclude),
            include=tuple(include),
            seed=seed,
        )
        self.model = model
        self.epoch: int | None = None  # of the last step
        self.layers, self.skipped = select_layers(model, n, exclude, include)
        self._block_masks = {name: masking.attach(layer, n, soft, decay) for name, layer in self.layers.items()}

    @property
    def masks(self) -> dict[str, Tensor]:
        """Layer name -> its mask [G, I], bool; the live buffers. All blocks are kept until the first step."""
        return {name: block_mask.mask for name, block_mask in self._block_masks.items()}

    @property
    def density(self) -> float:
        """Fraction of the masked layers' weights that is kept."""
        sizes = {name: masking.weight_of(layer).numel() for name, layer in self.layers.items()}
        return sum(blocks.density(mask) * sizes[name] for name, mask in self.masks.items()) / sum(sizes.values())

    @torch.no_grad()
    def step(self, epoch: int) -> None:
        """Chooses the masks for `epoch`, from 0, by the weights as they are. Call it before training that epoch."""
        require(self.attached, "this model is folded: its masks cannot move any more")
        rate = schedules.pruning_rate(
            self.settings.schedule, epoch, self.settings.start, self.settings.end, self.settings.sparsity
        )
        for name, layer in self.layers.items():
            self._block_masks[name].mask.copy_(self._choose(name, masking.trained_weight(layer), epoch, rate))
        self.epoch = epoch

    def _choose(self, name: str, weight: Tensor, epoch: int, rate: float) -> Tensor:
        s = self.settings
        scores = score(blocks.to_blocks(weight, s.n), s.criterion, s.alpha)
        require(
            bool(scores.isfinite().all()),
            f"{name} holds weights that are not finite: training diverged, try a lower learning rate",
        )
        return METHODS[s.method](scores, s.sparsity, rate, s.tau, generator(s.seed, "mask", name, epoch))

    def decay_in(self, optimizer: torch.optim.Optimizer) -> None:
        """From here on the optimizer's steps add `decay` * weight to the pruned weights' gradients, not the backward
        passes: once, however gradients came about (accumulated, scaled, averaged over processes).
        """
        if not self.settings.soft:
            return
        for block_mask in self._block_masks.values():
            block_mask.decay = 0.0

        def add(*_) -> None:
            for name, mask in self.masks.items() if self.attached else ():
                masking.add_decay(masking.trained_weight(self.layers[name]), mask, self.settings.decay)

        optimizer.register_step_pre_hook(add)

    @property
    def attached(self) -> bool:
        """Whether the masks are still on the model: False once it is folded."""
        return all(masking.is_masked(layer) for layer in self.layers.values())

    def fold(self) -> nn.Module:
        """Writes the zeros into the weights and takes the masks off, in place; returns the model, plain again."""
        return masking.fold(self.model)

    def summary(self) -> list[LayerState]:
        """Every layer with weights, in the model's order: pruned how far, or why not."""
        masks = self.masks
        rows = []
        for name, layer in self.model.named_modules():
            if name in masks:
                rows.append(
                    LayerState(
                        name,
                        parametrize.type_before_parametrizations(layer).__name__,
                        self.settings.n,
                        blocks.density(masks[name]),
                        None,
                    )
                )
            elif name in self.skipped:
                rows.append(LayerState(name, type(layer).__name__, None, 1.0, self.skipped[name]))
        return rows

    def state_dict(self) -> dict:
        """Settings, epoch of the last step and masks (copies)."""
        masks = {name: mask.clone() for name, mask in self.masks.items()}
        return {"settings": asdict(self.settings), "epoch": self.epoch, "masks": masks}

    def load_state_dict(self, state: dict) -> None:
        """Takes masks and epoch from `state`; lists in its settings, as JSON has them, stand for tuples.

        Raises UserError, naming what differs, for other settings or layers.
        """
        settings, masks = asdict(self.settings), self.masks
        for part, ours in (("settings", settings), ("masks", masks)):
            others = sorted(ours.keys() ^ state[part].keys())
            names = ", ".join(others)
            require(not others, f"the {part} of the saved state and of this sparsifier differ: {names} in one only")
        for key, own in settings.items():
            saved = state["settings"][key]
            saved = tuple(saved) if isinstance(saved, list) else saved
            require(
                saved == own,
                f"the saved state has {key} = {saved!r}, this sparsifier has {own!r}: make it with the same settings",
            )
        for name, mask in masks.items():
            saved = state["masks"][name]
            require(
                saved.shape == mask.shape,
                f"layer {name} has a mask of {list(mask.shape)}, the saved state one of {list(saved.shape)}",
            )
        for name, mask in masks.items():
            mask.copy_(state["masks"][name])
        self.epoch = state["epoch"]
