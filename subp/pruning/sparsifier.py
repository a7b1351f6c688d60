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

A step's draws come from a generator seeded with (seed, layer name, epoch) alone. So masks depend on the weights, the
epoch and, where scores or settled masks ask for it, on the masks before, which are part of the model's state; not on
PyTorch's global generator. Data-parallel ranks, whose weights are equal, get equal masks, and there is no generator
whose state would have to be saved.

Where the method needs gradients, every backward pass between two steps adds to their mean, which is part of the model's
state as the masks are. Data-parallel ranks must then all call `step`, which averages over them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from subp.common.plain import patterns
from subp.common.seeds import generator
from subp.pruning import block_masks, copies, masking, saved_state, schedules, step_decay
from subp.pruning import sparse_compute as computing
from subp.pruning.budget.layer_sparsities import find_budget, find_plan, find_sparsities, ranks
from subp.pruning.channels.assignment import ORDERS
from subp.pruning.channels.rearrange import LayerReport, example_input
from subp.pruning.channels.rearrange import rearrange as rearrange_filters
from subp.pruning.channels.regrouping import Regrouping
from subp.pruning.criteria import CRITERIA, score
from subp.pruning.methods import METHODS, MethodStep
from subp.pruning.methods.base import SoftTraining, followed
from subp.pruning.scoring import SCORINGS
from subp.pruning.selection import block_size, parameter_names, select_layers
from subp.pruning.settings import PruningOptions, Settings
from subp.pruning.summary import LayerState, layer_states
from subp_contract.arguments import require_kind, whole_number
from subp_contract.errors import require


class Sparsifier:
    """Masks on all prunable layers of a model; see the module's docstring for the use.

    model:           any nn.Module; its Conv1d, Conv2d and Linear layers, the input projections of MultiheadAttention
                     and the matrices of recurrent layers are pruned
    n:               outputs in a block, for methods that have blocks; fewer in a layer whose outputs (of each group, if
                     grouped; of each gate, if recurrent) n does not divide, see selection.block_size
    sparsity:        fraction that is pruned in the end, in [0, 1): of each group's blocks, or of the method's own
                     units; 0.75 unless a target is given
    target_macs:     instead: multiply-accumulates of the whole network in the end, for one input of `input_shape`; up
                     to 1, a fraction of the dense network's. The network gets the largest below it that whole blocks
                     allow
    target_weights:  instead: weights of the whole network in the end, likewise
    target_latency:  instead: predicted time of the compiled network in the end, a fraction of the dense one's, on the
                     CPU `target` ("host", or as of tvm_sched.compile), in float32 and one thread, for one input of
                     `input_shape`. Layers get the sparsities that keep most weights (subp/deployment/latency.py)
    vary_n:          with `target_latency`: layers choose N too, of n, n / 2 and 2n (attribute `block_sizes`)
    allocation:      how that is shared out among the pruned layers, a name in budget/allocation.py: "equal", the same
                     sparsity for all; "erk", by their shapes; "global", by their weights as they are now, which
                     data-parallel ranks must have alike by then. With these two, `sparsity` is the fraction of all
                     pruned layers' weights together. The attribute `sparsities` says what each layer got
    multiple:        each group keeps a multiple of so many blocks in the end (4 for int8 kernels, which multiply four
                     channels at a time), if it has as many; None: 1. Multiply-accumulates of the whole network (without
                     `input_shape`, weights) stay at or below those without it; see budget/budgets.py
    method:          a name in methods.METHODS, whose files say what each does; those that regroup filters need
                     `input_shape`
    criterion:       "l1", "l2" or "bpar", see criteria.py; None: the method's own
    scoring:         of pruned units, a name in scoring.py: "masked", "active" or "weight"; None: the method's own
    schedule:        a name in schedules.SCHEDULES, running from epoch `start` to epoch `end`; both default to the
                     paper's 10 and 180 of 250 epochs, in proportion to `epochs`; `end` to the last epoch where
                     `start` is later than that; methods that prune at once default to 0 for both, or `end` to `start`
    soft:            gradients reach pruned weights too, with `decay` * weight added there (SR-STE); else they get none;
                     None: the method's own
    rearrange:       first fold filters in another order into the network, where that leaves its function as it is (see
                     channels/rearrange.py; needs `input_shape`); `rearranged` then says of each layer how far, and why
                     not
    arrange_by:      in which order: "norm", sorted by L1 norm (arXiv 2105.14713); "assignment", so that each group
                     keeps most of it (channels/assignment.py)
    exclude:         patterns (fnmatch) of names of layers to leave dense, besides stem, depthwise and classifier
    include:         patterns of names of layers to prune although they are the stem or the classifier
    seed:            of the draws
    sparse_compute:  "kernels": on a CPU, leave the pruned blocks out of the products of a step, see sparse_compute.py;
                     `summary` says of each layer how it computes. None: PyTorch's products of the masked weights
    hyperparameters: of the method, the criterion and soft training, by name (those of other methods do nothing), each
                     described where it is defined, in methods/; docs/methods.md lists them all. `decay` of soft
                     training is added in every backward pass: twice for a layer used twice, once a micro-batch where
                     gradients are accumulated, and weakened as many times as a loss is scaled up (fp16); `decay_in`
                     adds it once a step of the optimizer

    Raises UserError for settings out of range and for models with nothing to prune.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        n: int = PruningOptions.n,
        sparsity: float | None = PruningOptions.sparsity,
        target_macs: float | None = PruningOptions.target_macs,
        target_weights: float | None = PruningOptions.target_weights,
        target_latency: float | None = PruningOptions.target_latency,
        target: str = PruningOptions.target,
        vary_n: bool = PruningOptions.vary_n,
        allocation: str = PruningOptions.allocation,
        multiple: int | None = PruningOptions.multiple,
        input_shape: Sequence[int] | None = None,
        method: str = PruningOptions.method,
        criterion: str | None = PruningOptions.criterion,
        scoring: str | None = PruningOptions.scoring,
        schedule: str = PruningOptions.schedule,
        epochs: int,
        start: int | None = PruningOptions.start,
        end: int | None = PruningOptions.end,
        soft: bool | None = PruningOptions.soft,
        rearrange: bool = PruningOptions.rearrange,
        arrange_by: str = PruningOptions.arrange_by,
        exclude: str | Sequence[str] = PruningOptions.exclude,
        include: str | Sequence[str] = PruningOptions.include,
        seed: int = PruningOptions.seed,
        sparse_compute: str | None = None,
        **hyperparameters: float | int | bool | str,
    ) -> None:
        require_kind("model", model, nn.Module, "a torch.nn.Module")
        self.settings = Settings.completed(
            n=n,
            sparsity=sparsity,
            target_macs=target_macs,
            target_weights=target_weights,
            target_latency=target_latency,
            target=target,
            vary_n=vary_n,
            allocation=allocation,
            multiple=multiple,
            method=method,
            criterion=criterion,
            scoring=scoring,
            schedule=schedule,
            epochs=epochs,
            start=start,
            end=end,
            soft=soft,
            exclude=patterns(exclude),
            include=patterns(include),
            seed=seed,
            hyperparameters=hyperparameters,
        )
        n, exclude, include = self.settings.n, self.settings.exclude, self.settings.include
        self.model = model
        self.epoch: int | None = None  # of the last step
        self._method = METHODS[method]
        self._options = self.settings.options(self._method.options)
        self._decay = self.settings.options(SoftTraining).decay
        inputs = self._method.inputs_of(self._options) if self._method.inputs_of else 1
        self.places, self.skipped = select_layers(model, n if self._method.uses_n else 1, exclude, include, inputs)
        sizes = {name: block_size(place, n) if self._method.uses_n else n for name, place in self.places.items()}
        planned = find_plan(model, self.settings, input_shape)
        # Outputs in a block: all have some, as the layer stays dense where none fits.
        self.block_sizes = {name: size for name, size in sizes.items() if size} | (planned.sizes if planned else {})
        weights = {name: masking.weight_of(*place) for name, place in self.places.items()}
        units = {name: self._method.mask_shape(weight, self.block_sizes[name]) for name, weight in weights.items()}
        ranked = ranks(self._method, self._options, weights, self.block_sizes)
        budget = planned or find_budget(model, self.places, ranked, self.settings, input_shape)
        require(
            input_shape is not None or not (rearrange or self._method.regroups),
            f"{'rearrange' if rearrange else method} needs an input_shape, such as (3, 224, 224), to trace the model "
            "with",
        )
        names = parameter_names(model, self.places)
        self._sizes = {name: weight.numel() for name, weight in weights.items()}
        require(arrange_by in ORDERS, f"there is no arrange_by {arrange_by!r}: choose from {', '.join(ORDERS)}")
        self.rearranged: list[LayerReport] = []
        if rearrange and input_shape:
            expected = find_sparsities(self.places, units, self.settings, budget)
            pruned = {names[name]: (self.block_sizes[name], sparsity) for name, sparsity in expected.items()}
            order = partial(ORDERS[arrange_by], weights=pruned)
            self.rearranged = rearrange_filters(model, example_input(model, input_shape), order)
        self.sparsities = find_sparsities(self.places, units, self.settings, budget)  # layer name -> in the end
        self._regrouping = Regrouping(model, names, n, input_shape) if self._method.regroups and input_shape else None
        self._masks = {
            name: masking.attach(
                layer,
                units[name],
                self.settings.soft,
                self._decay,
                name=weight,
                follow=self._follow(name),
                average_gradients=self._method.needs_gradients,
                shrink=self._method.shrinks,
            )
            for name, (layer, weight) in self.places.items()
        }
        if sparse_compute is not None:
            computing.attach(model, sparse_compute)

    def __repr__(self) -> str:
        return f"<Sparsifier: {self.settings.words}, {len(self.places)} layers, epoch {self.epoch}>"

    @property
    def masks(self) -> dict[str, Tensor]:
        """Layer name -> its mask, bool, [G, I] of blocks or of the method's other unit; the live buffers. Everything is
        kept until the first step.
        """
        return {name: mask.mask for name, mask in self._masks.items()}

    @property
    def density(self) -> float:
        """Fraction of the masked layers' weights that is kept; once they are folded, that was kept then."""
        self._require_present()
        kept = sum(block_masks.density(mask) * self._sizes[name] for name, mask in self.masks.items())
        return kept / sum(self._sizes.values())

    @torch.no_grad()
    def step(self, epoch: int) -> None:
        """Chooses the masks for `epoch`, from 0, by the weights as they are. Call it before training that epoch. Raises
        UserError for an epoch that it was not made for, a folded model, and weights that are not finite.
        """
        self._require_attached()
        epoch = whole_number("epoch", epoch, 0, self.settings.epochs - 1)
        settled = self._settled(epoch)
        self.share_gradients()
        orders = {} if settled or not self._method.regroups else self._regrouped(epoch)
        for name, place in self.places.items():
            weight, mask = masking.trained_weight(*place), self._masks[name].mask
            require(not weight.is_meta, f"{name} is on the meta device, which has no numbers: load the weights first")
            require(
                bool(weight.isfinite().all()),
                f"{name} holds weights that are not finite: training diverged, try a lower learning rate",
            )
            if not settled:
                scored, active = SCORINGS[self.settings.scoring].of(weight, mask)
                at = self._at(name, epoch, active=active, order=orders.get(name), gradient=self._masks[name].gradient)
                chosen = self._method.choose(scored, at)
                if self._method.returns_zero:
                    weight.masked_fill_(block_masks.expand_mask(chosen & ~mask, weight.shape), 0)
                mask.copy_(chosen)
            self._masks[name].forget_gradients()
        self.epoch = epoch

    def _settled(self, epoch: int) -> bool:
        """Whether the masks stay from here on. Past epoch `end` it is enough that some weight is masked: a loop may
        have resumed by the model's state alone, masks among it.
        """
        if not self._method.settles:
            return False
        if self.epoch is None:
            return epoch > self.settings.end and not all(bool(mask.all()) for mask in self.masks.values())
        return self.epoch >= self.settings.end

    def share_gradients(self) -> None:
        """Averages the gradients that a method needs over processes, as `step` does; before a checkpoint is written."""
        masking.share_gradients(self._masks.values())

    def _regrouped(self, epoch: int) -> dict[str, Tensor]:
        """Layer name -> its outputs [O] in an order of which each n consecutive ones are a group."""
        regrouping, kernels = self._regrouping, self._method.kernels
        assert regrouping is not None and kernels is not None
        return regrouping.orders(
            {
                name: kernels(masking.trained_weight(*place), self._rate(name, epoch))
                for name, place in self.places.items()
            }
        )

    def _rate(self, name: str, epoch: int) -> float:
        s = self.settings
        return schedules.pruning_rate(s.schedule, epoch, s.start, s.end, self.sparsities[name])

    def _at(self, name: str, epoch: int, **state: Tensor | None) -> MethodStep:
        """What the method is told of a layer; state: active, order and gradient of MethodStep."""
        s = self.settings
        of_criterion = s.options(CRITERIA[s.criterion].options) if s.criterion else None
        return MethodStep(
            n=self.block_sizes[name],
            sparsity=self.sparsities[name],
            multiple=s.multiple,
            rate=self._rate(name, epoch),
            # Without a criterion the method never asks for scores.
            score=partial(score, criterion=s.criterion, options=of_criterion),  # type: ignore[arg-type]
            generator=generator(s.seed, "mask", name, epoch),
            options=self._options,
            span=(s.start, s.end),
            epoch=epoch,
            **state,
        )

    def _follow(self, name: str) -> Callable[[Tensor, Tensor], Tensor] | None:
        return partial(followed, self._method.follow, self._at(name, 0)) if self._method.follow else None

    def decay_in(self, optimizer: torch.optim.Optimizer) -> None:
        """From here on the optimizer's steps add `decay` * weight to the pruned weights' gradients, not the backward
        passes: once, however gradients came about (accumulated, scaled, averaged over processes, by a closure). Weights
        that it does not hold keep the pull of the backward passes. Raises UserError if it holds none.
        """
        self._require_attached()
        if not self.settings.soft:
            return
        masked = [(masking.trained_weight(*place), self._masks[name]) for name, place in self.places.items()]
        step_decay.add_in_steps(optimizer, masked, self._decay, lambda: self.attached)

    @property
    def attached(self) -> bool:
        """Whether the masks are still on the model: False once it is folded."""
        return all(weight in masking.masked_weights(layer) for layer, weight in self.places.values())

    def _require_attached(self) -> None:
        self._require_present()
        require(self.attached, "this model is folded: its masks cannot move any more")

    def _require_present(self) -> None:
        copies.require_present(self.model, self.places)

    @torch.no_grad()
    def share_masks(self, model: nn.Module) -> nn.Module:
        """Gives a copy of the model this one's masks, as `fold` does: before an average is evaluated of which buffers,
        and so masks, were averaged too. Masks that follow the weights follow the copy's.

        model:  with a mask on each layer that has one here; perhaps wrapped, as by AveragedModel. Returns it unwrapped.
                Raises UserError for another one.
        """
        copy, masks = copies.masks_of_copy(model, self.masks)
        for name, mask in self.masks.items():
            masks[name].mask.copy_(mask)
        if self._method.follow:
            masking.follow_weights(copy)
        return copy

    def fold(self, model: nn.Module | None = None) -> nn.Module:
        """Writes the zeros into the weights and takes the masks off, in place; returns the model, plain again. Where
        the method regroups, the outputs of a group then stand side by side, and the model computes what it did.

        model: a copy instead, such as one whose weights are averaged; it gets this one's masks first (`share_masks`)
        """
        self._require_present()
        if model is None or model is self.model:
            model, masked = self.model, self.model if self.attached else None
        else:
            masked = self.share_masks(model)
        computing.detach(model)
        masking.fold(model)
        if masked and self._regrouping:
            self._regrouping.fold(masked, self.masks)
        return model

    def summary(self) -> list[LayerState]:
        """Every layer with weights, in the model's order: pruned how far, or why not."""
        self._require_present()
        sizes = self.block_sizes if self._method.uses_n else {}
        return layer_states(self.model, self.masks, sizes, self.skipped)

    def state_dict(self) -> dict:
        """Settings, the layers' sparsities and block sizes, epoch of the last step and masks (copies)."""
        return {
            "settings": self.settings.as_dict(),
            "sparsities": dict(self.sparsities),
            "block_sizes": dict(self.block_sizes),
            "epoch": self.epoch,
            "masks": {name: mask.clone() for name, mask in self.masks.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes `state`, whole. Raises UserError, naming what differs, for one of other settings or layers, and takes
        nothing of it.
        """
        saved_state.check(state, self.settings.as_dict(), self.masks)
        sizes = self._checked_sizes(state["sparsities"], state.get("block_sizes"))
        saved_state.check_masks(state["masks"], {name: self._mask_shape(name, size) for name, size in sizes.items()})
        self._take_plan(state["sparsities"], sizes)
        for name, mask in self.masks.items():
            mask.copy_(state["masks"][name])
        self.epoch = state["epoch"]

    def load_plan(self, sparsities: dict[str, float], block_sizes: dict[str, int] | None = None) -> None:
        """Takes the layers' sparsities and block sizes of an earlier run: by "global" they came from its weights, by
        `target_latency` from what was known of the CPU. Raises UserError, naming what differs, for other ones.
        """
        self._take_plan(sparsities, self._checked_sizes(sparsities, block_sizes))

    def _checked_sizes(self, sparsities: dict[str, float], block_sizes: dict[str, int] | None) -> dict[str, int]:
        anew = self.settings.allocation == "global" or self.settings.target_latency is not None
        saved_state.check_sparsities(sparsities, self.sparsities, anew)
        sizes = block_sizes or self.block_sizes
        saved_state.check_sizes(sizes, self.block_sizes, self.places if self.settings.vary_n else {})
        return sizes

    def _take_plan(self, sparsities: dict[str, float], sizes: dict[str, int]) -> None:
        self.sparsities = dict(sparsities)
        for name in [name for name, size in sizes.items() if size != self.block_sizes[name]]:
            self.block_sizes[name] = sizes[name]
            self._masks[name].renew(self._mask_shape(name, sizes[name]), self._follow(name))

    def _mask_shape(self, name: str, n: int) -> tuple[int, ...]:
        return self._method.mask_shape(masking.trained_weight(*self.places[name]), n)
