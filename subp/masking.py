"""A block mask on a layer's weight, as a PyTorch parametrization, and its removal.

While it is attached, `layer.weight` is the masked weight, the trained parameter stays the same object (an optimizer
made before or after holds it alike) under `parametrizations.weight.original`, and the mask [G, I] is the buffer
`parametrizations.weight.0.mask`: it moves, copies and saves with the model. In attention (nn.MultiheadAttention) the
weight's name is `in_proj_weight`: [3E, E], the projections to queries, keys and values as one linear layer.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.blocks import expand_mask

_WEIGHT, _ATTENTION_WEIGHT = "weight", "in_proj_weight"
_MASKED = {  # a masked weight's entries in a state dict: the trained parameter -> (the mask, the weight)
    f"parametrizations.{weight}.original": (f"parametrizations.{weight}.0.mask", weight)
    for weight in (_WEIGHT, _ATTENTION_WEIGHT)
}


class BlockMask(nn.Module):
    """weight [O, I, *kernel] -> weight where the mask [O/n, I] keeps its block, 0 elsewhere.

    soft: the gradient passes straight through to every weight, plus `decay` * weight on the pruned ones (SR-STE, arXiv
    2102.04010). Otherwise pruned weights get no gradient. The term is added in every backward pass through the weight:
    twice for a layer that is used twice, once a micro-batch where gradients are accumulated; and a loss that is scaled
    up (fp16) makes it as many times weaker. `add_decay`, with `decay` 0, adds it once a step instead.
    """

    def __init__(self, weight: Tensor, n: int, soft: bool, decay: float) -> None:
        super().__init__()
        self.soft, self.decay = soft, decay
        groups, channels = weight.shape[0] // n, weight.shape[1]
        self.register_buffer("mask", torch.ones(groups, channels, dtype=torch.bool, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        mask = expand_mask(self.mask, weight.shape)
        return _StraightThrough.apply(weight, mask, self.decay) if self.soft else torch.where(mask, weight, 0)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Lets `layer.weight = value` set the trained parameter."""
        return weight


@torch.no_grad()
def add_decay(weight: Tensor, mask: Tensor, decay: float) -> None:
    """Adds SR-STE's term to the gradient of a trained weight, where it has one: `decay` * weight on pruned blocks."""
    if weight.grad is not None:
        weight.grad.add_(torch.where(expand_mask(mask, weight.shape), 0, weight), alpha=decay)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        return torch.where(mask, weight, 0)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        weight, mask, ctx.decay = inputs
        ctx.save_for_backward(weight, mask)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if not ctx.decay:
            return gradient, None, None
        weight, mask = ctx.saved_tensors
        return torch.where(mask, gradient, gradient + ctx.decay * weight), None, None


def weight_name(layer: nn.Module) -> str:
    """The attribute that holds the weight of a layer that can be masked."""
    return _ATTENTION_WEIGHT if isinstance(layer, nn.MultiheadAttention) else _WEIGHT


def weight_of(layer: nn.Module) -> Tensor:
    """The weight [O, I, *kernel], zeros in place where it is masked."""
    return getattr(layer, weight_name(layer))


def trained_weight(layer: nn.Module) -> nn.Parameter:
    """The parameter behind a masked weight: it has no zeros."""
    return layer.parametrizations[weight_name(layer)].original


def attach(layer: nn.Module, n: int, soft: bool, decay: float) -> BlockMask:
    """Masks the layer's weight from here on, all blocks kept; the mask is the returned module's buffer."""
    block_mask = BlockMask(weight_of(layer), n, soft, decay)
    parametrize.register_parametrization(layer, weight_name(layer), block_mask)
    return block_mask


def is_masked(layer: nn.Module) -> bool:
    """Whether the layer's weight has a block mask."""
    name = weight_name(layer)
    return parametrize.is_parametrized(layer, name) and isinstance(layer.parametrizations[name][0], BlockMask)


def fold(model: nn.Module) -> nn.Module:
    """Writes every mask's zeros into its weight and takes it off, in place: plain modules again. Returns `model`."""
    for layer in model.modules():
        if is_masked(layer):
            weight, masked_class = weight_name(layer), type(layer)
            # A copy of a layer shares the class that removal takes the weight's property from: give it one of its own.
            layer.__class__ = type(masked_class.__name__, masked_class.__bases__, dict(vars(masked_class)))
            parametrize.remove_parametrizations(layer, weight, leave_parametrized=True)
            for name in [name for name in layer._parameters if name != weight]:  # the weight comes first again
                layer._parameters[name] = layer._parameters.pop(name)
    return model


def fold_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that the model would have after `fold`, from the one that it has; a plain one stays as it is."""
    folded, masks = {}, set()
    for name, tensor in state.items():
        trained = next((trained for trained in _MASKED if name.endswith(trained)), None)
        if trained is None:
            folded[name] = tensor
            continue
        mask, weight = (name.removesuffix(trained) + part for part in _MASKED[trained])
        folded[weight] = torch.where(expand_mask(state[mask], tensor.shape), tensor, 0)
        masks.add(mask)
    return {name: tensor for name, tensor in folded.items() if name not in masks}
