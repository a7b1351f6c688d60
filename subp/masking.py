"""A block mask on a layer's weight, as a PyTorch parametrization, and its removal.

While it is attached, `layer.weight` is the masked weight, the trained parameter stays the same object (an optimizer
made before or after holds it alike) under `parametrizations.weight.original`, and the mask [G, I] is the buffer
`parametrizations.weight.0.mask`: it moves, copies and saves with the model.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.blocks import expand_mask

_WEIGHT, _ORIGINAL, _MASK = "weight", "parametrizations.weight.original", "parametrizations.weight.0.mask"


class BlockMask(nn.Module):
    """weight [O, I, *kernel] -> weight where the mask [O/n, I] keeps its block, 0 elsewhere.

    soft: the gradient passes straight through to every weight, plus `decay` * weight on the pruned ones (SR-STE, arXiv
    2102.04010). Otherwise pruned weights get no gradient. The term is added in every backward pass through the weight:
    twice for a layer that is used twice, once a micro-batch where gradients are accumulated; and a loss that is scaled
    up (fp16) makes it as many times weaker.
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
        weight, mask = ctx.saved_tensors
        return torch.where(mask, gradient, gradient + ctx.decay * weight), None, None


def attach(layer: nn.Module, n: int, soft: bool, decay: float) -> BlockMask:
    """Masks the layer's weight from here on, all blocks kept; the mask is the returned module's buffer."""
    block_mask = BlockMask(layer.weight, n, soft, decay)
    parametrize.register_parametrization(layer, _WEIGHT, block_mask)
    return block_mask


def is_masked(layer: nn.Module) -> bool:
    """Whether the layer's weight has a block mask."""
    return parametrize.is_parametrized(layer, _WEIGHT) and isinstance(layer.parametrizations.weight[0], BlockMask)


def fold(model: nn.Module) -> nn.Module:
    """Writes every mask's zeros into its weight and takes it off, in place: plain modules again. Returns `model`."""
    for layer in model.modules():
        if is_masked(layer):
            parametrize.remove_parametrizations(layer, _WEIGHT, leave_parametrized=True)
            for name in [name for name in layer._parameters if name != _WEIGHT]:  # weight comes first again
                layer._parameters[name] = layer._parameters.pop(name)
    return model


def fold_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that the model would have after `fold`, from the one that it has; a plain one stays as it is."""
    folded = {}
    for name, tensor in state.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            folded[layer + _WEIGHT] = torch.where(expand_mask(state[layer + _MASK], tensor.shape), tensor, 0)
        elif not name.endswith(_MASK):
            folded[name] = tensor
    return folded
