"""A mask on a layer's weight, as a PyTorch parametrization, and its removal.

While it is attached, `layer.weight` is the masked weight, the trained parameter stays the same object (an optimizer
made before or after holds it alike) under `parametrizations.weight.original`, and the mask (of one of the units of
methods/base.py, such as [G, I]) is the buffer `parametrizations.weight.0.mask`: it moves, copies and saves with
the model. In attention (nn.MultiheadAttention) the weight's name is `in_proj_weight`: [3E, E], the projections to
queries, keys and values as one linear layer; in recurrent layers (nn.LSTM, nn.GRU, nn.RNN) there are several,
`weight_ih_l0` [gates * H, I] and `weight_hh_l0` [gates * H, H] and so on, the gates' rows one after the other.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.pruning.block_masks import expand_mask
from subp.pruning.soft_threshold import shrunk
from subp_contract.arguments import require_kind
from subp_contract.errors import require

_TRAINED = re.compile(r"(.*?)parametrizations\.(\w+)\.original")  # a masked weight's entry in a state dict


class Mask(nn.Module):
    """weight [O, I, *kernel] -> weight where the mask keeps it, 0 elsewhere.

    shape:   of the mask, which `block_masks.expand_mask` spreads over the weight; all is kept at first
    soft:    the gradient passes straight through to every weight, plus `decay` * weight on the pruned ones (SR-STE,
             arXiv 2102.04010). Otherwise pruned weights get no gradient. The term is added in every backward pass
             through the weight: twice for a layer that is used twice, once a micro-batch where gradients are
             accumulated; and a loss that is scaled up (fp16) makes it as many times weaker. step_decay.py, with
             `decay` 0 here, adds it once a step instead.
    follow:  (weight, mask until now) -> mask, asked at every forward pass in training, and by `follow_weights`; None:
             the mask stays until it is set
    shrink:  of a block mask: what is kept is shrunk by what is pruned (soft_threshold.py), which an empty buffer
             `shrinks` says in state dicts. The gradient by the trained weight is still the one by the shrunk weight
    average_gradients:  keep the mean of the gradients by the masked weight, of pruned weights too, in the buffer
             `gradient`, of all backward passes since `forget_gradients`; `gradient` is None without. A loss that is
             scaled up (fp16) scales them; those that overflow are left out
    """

    def __init__(
        self,
        weight: Tensor,
        shape: tuple[int, ...],
        soft: bool,
        decay: float,
        follow: Callable[[Tensor, Tensor], Tensor] | None = None,
        average_gradients: bool = False,
        shrink: bool = False,
    ) -> None:
        super().__init__()
        self.mask: Tensor
        self.gradient: Tensor | None
        self.gradients_seen: Tensor | None
        self.shrinks: Tensor | None
        self.soft, self.decay, self.follow = soft, decay, follow
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool, device=weight.device))
        self.register_buffer("gradient", torch.zeros_like(weight.detach()) if average_gradients else None)
        self.register_buffer("gradients_seen", self.mask.new_zeros((), dtype=torch.long) if average_gradients else None)
        self.register_buffer("shrinks", self.mask.new_empty(0) if shrink else None)

    def forward(self, weight: Tensor) -> Tensor:
        if self.follow and self.training:  # without gradients too: so checkpointed activations are computed first
            self.mask.copy_(self.follow(weight.detach(), self.mask))
        mask = expand_mask(self.mask, weight.shape)
        computed = None if self.shrinks is None else shrunk(weight.detach(), self.mask)
        masked = weight if self.soft else torch.where(mask, weight, 0)
        if self.soft or computed is not None:
            masked = _StraightThrough.apply(masked, mask, self.decay if self.soft else 0.0, computed)
        if self.gradient is not None and masked.requires_grad:
            masked.register_hook(self._average)
        return masked

    @torch.no_grad()
    def _average(self, gradient: Tensor) -> None:
        """Adds one gradient to the mean."""
        assert self.gradient is not None and self.gradients_seen is not None
        if gradient.isfinite().all():
            self.gradients_seen += 1
            self.gradient += (gradient - self.gradient) / self.gradients_seen

    def forget_gradients(self) -> None:
        """Begins a new mean."""
        for buffer in (self.gradient, self.gradients_seen):
            if buffer is not None:
                buffer.zero_()

    def renew(self, shape: tuple[int, ...], follow: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        """A mask of another shape in its place, everything kept."""
        self.mask, self.follow = self.mask.new_ones(shape), follow

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Lets `layer.weight = value` set the trained parameter."""
        return weight


@torch.no_grad()
def follow_weights(model: nn.Module) -> None:
    """Chooses every mask that follows its weight anew, by the weights as they are now: after an optimizer's step they
    are not those of the last forward pass, nor are averaged ones.
    """
    for layer in model.modules():
        for name in masked_weights(layer):
            mask = mask_of(layer, name)
            if mask.follow:
                mask.mask.copy_(mask.follow(trained_weight(layer, name), mask.mask))


@torch.no_grad()
def share_gradients(masks: Iterable[Mask]) -> None:
    """Gives all processes of a data-parallel training the mean of the gradients that these masks average, if any."""
    if dist.is_available() and dist.is_initialized():
        for mask in masks:
            if mask.gradient is not None:
                dist.all_reduce(mask.gradient)
                mask.gradient /= dist.get_world_size()


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, decay: float, computed: Tensor | None) -> Tensor:
        """The weight where it is kept; or `computed`, which is zero elsewhere."""
        return torch.where(mask, weight, 0) if computed is None else computed.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        weight, mask, ctx.decay, _ = inputs
        ctx.save_for_backward(weight, mask)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.decay:
            return gradient, None, None, None
        weight, mask = ctx.saved_tensors
        return torch.where(mask, gradient, gradient + ctx.decay * weight), None, None, None


def weight_names(layer: nn.Module) -> list[str]:
    """The attributes that hold the weights of a layer that can be masked."""
    if isinstance(layer, nn.RNNBase):
        return [name for name in layer._flat_weights_names if name.startswith(("weight_ih", "weight_hh"))]
    return ["in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"]


def weight_of(layer: nn.Module, name: str | None = None) -> Tensor:
    """The weight [O, I, *kernel], zeros in place where it is masked; `name` where the layer has several."""
    return getattr(layer, name or weight_names(layer)[0])


def trained_weight(layer: nn.Module, name: str | None = None) -> nn.Parameter:
    """The parameter behind a masked weight: it has no zeros."""
    return layer.get_parameter(f"parametrizations.{name or weight_names(layer)[0]}.original")


def mask_of(layer: nn.Module, name: str | None = None) -> Mask:
    """The mask on a masked weight; `name` where the layer has several."""
    mask = layer.get_submodule(f"parametrizations.{name or weight_names(layer)[0]}.0")
    assert isinstance(mask, Mask)
    return mask


def attach(
    layer: nn.Module,
    shape: tuple[int, ...],
    soft: bool,
    decay: float,
    *,
    name: str | None = None,
    follow: Callable[[Tensor, Tensor], Tensor] | None = None,
    average_gradients: bool = False,
    shrink: bool = False,
) -> Mask:
    """Masks the layer's weight (of that name) from here on, everything kept; the mask is the returned module's buffer.
    The other arguments are those of `Mask`.
    """
    name = name or weight_names(layer)[0]
    mask = Mask(weight_of(layer, name), shape, soft, decay, follow, average_gradients, shrink)
    parametrize.register_parametrization(layer, name, mask)
    if isinstance(layer, nn.RNNBase):
        # A descriptor in the class that parametrization made for this one layer.
        type(layer)._flat_weights = _FlatWeights()  # type: ignore[assignment]
    return mask


class _FlatWeights:
    """`_flat_weights` of a recurrent layer, by which it computes: always its weights as they are, masked ones too.
    PyTorch's own list would hold the trained parameters.
    """

    def __get__(self, layer: nn.RNNBase, owner: type) -> list[Tensor]:
        return [getattr(layer, name) for name in layer._flat_weights_names]

    def __set__(self, layer: nn.RNNBase, weights: list[Tensor]) -> None:
        pass


def masked_weights(layer: nn.Module) -> list[str]:
    """Names of the layer's weights that have a mask."""
    if not parametrize.is_parametrized(layer):
        return []
    parametrized = layer.get_submodule("parametrizations").named_children()
    return [name for name, parts in parametrized if isinstance(parts.get_submodule("0"), Mask)]


def fold(model: nn.Module) -> nn.Module:
    """Writes every mask's zeros into its weight and takes it off, in place: plain modules again. Returns `model`."""
    require_kind("model", model, nn.Module, "a torch.nn.Module")
    for layer in model.modules():
        names, masked_class = masked_weights(layer), type(layer)
        if not names:
            continue
        # A copy of a layer shares the class that removal takes the weights' properties from: give it one of its own.
        layer.__class__ = type(masked_class.__name__, masked_class.__bases__, dict(vars(masked_class)))
        for name in names:
            mask_of(layer, name).follow = None  # the zeros are the mask's as it is
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
        _in_order(layer, layer._flat_weights_names if isinstance(layer, nn.RNNBase) else names)
    return model


def _in_order(layer: nn.Module, first: list[str]) -> None:
    """Puts the parameters of these names before the layer's others, as they were before masking."""
    for name in [*first, *(name for name in layer._parameters if name not in first)]:
        layer._parameters[name] = layer._parameters.pop(name)
    for name in first:
        setattr(layer, name, layer._parameters[name])  # a recurrent layer's list of them learns of it


def fold_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that the model would have after `fold`, from the one that it has; a plain one stays as it is.
    Raises UserError where masks were averaged.
    """
    folded: dict[str, Tensor] = {}
    masks: set[str] = set()
    for name, tensor in state.items():
        trained = _TRAINED.fullmatch(name)
        buffers = f"{trained[1]}parametrizations.{trained[2]}.0." if trained else ""
        if trained is None or f"{buffers}mask" not in state:
            folded[name] = tensor
            continue
        mask = state[f"{buffers}mask"]
        require(
            mask.dtype == torch.bool,
            f"{buffers}mask is no mask but an average of some: fold averages by the sparsifier's fold(average)",
        )
        tensor = shrunk(tensor, mask) if f"{buffers}shrinks" in state else tensor
        folded[trained[1] + trained[2]] = torch.where(expand_mask(mask, tensor.shape), tensor, 0)
        masks.add(buffers)
    return {name: tensor for name, tensor in folded.items() if not name.startswith(tuple(masks))}
