"""1x1 convolutions that leave the pruned blocks out of their products while training on a CPU.

A layer's three products, per group g of N outputs with its K kept channels idx_g, image by image so that what is
gathered stays in the cache (X is [I, P], P pixels):

    Y_g = W_g X[idx_g]            [N, K] x [K, P]
    dX[idx_g] += W_g^T dY_g       [K, N] x [N, P]
    dW_g = dY_g X[idx_g]^T        [N, P] x [P, K]       hard training; soft training needs the gradient of pruned blocks
                                                        too, so there dW is PyTorch's dense one

results/sparse_training.csv has what that gains, and why 3x3 convolutions, whose patches would be gathered nine times,
stay dense. So do, for as long as it lasts, layers that keep more than half of their blocks, or unequal numbers of them.
"""

import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight
from torch.nn.utils import parametrize

from subp.pruning import masking

MIN_N = 16  # below, the products are too small to outrun the gathering
MAX_DENSITY = 0.5


def attach(model: nn.Module) -> int:
    """Lets those of a masked model's layers that this is for compute so, until `detach`. Returns how many."""
    suited = [layer for layer in model.modules() if _suits(layer)]
    for layer in suited:
        layer.forward = types.MethodType(_forward, layer)
    return len(suited)


def detach(model: nn.Module) -> None:
    """Every layer of the model computes as its class does again."""
    for layer in model.modules():
        if getattr(layer.forward, "__func__", None) is _forward:
            del layer.forward


def _suits(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or not masking.masked_weights(layer):
        return False
    if layer.kernel_size != (1, 1) or layer.groups > 1 or layer.padding != (0, 0):
        return False
    parametrization = masking.mask_of(layer)
    groups, *inputs = parametrization.mask.shape  # [G, I], if it is one of blocks
    if parametrization.follow is not None or parametrization.gradient is not None:  # both look at the masked weight
        return False
    return inputs == [layer.in_channels] and layer.out_channels // groups >= MIN_N


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    parametrization = masking.mask_of(layer)
    mask, soft = parametrization.mask, parametrization.soft
    kept = mask.sum(1)
    if kept[0] > MAX_DENSITY * mask.shape[1] or (kept != kept[0]).any():
        own: type[nn.Conv2d] = parametrize.type_before_parametrizations(layer)
        return own.forward(layer, x)
    index = mask.nonzero()[:, 1].view(len(mask), -1)
    rows, columns = layer.stride
    x = x[:, :, ::rows, ::columns]
    y = _Product.apply(x.flatten(2), masking.trained_weight(layer), index, soft).unflatten(2, x.shape[2:])
    return y if layer.bias is None else y + layer.bias[:, None, None]


class _Product(torch.autograd.Function):
    """(x [B, I, P], weight [O, I, 1, 1], index [G, K], soft) -> [B, O, P]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, index: Tensor, soft: bool) -> Tensor:
        ctx.save_for_backward(x, weight, index)
        ctx.soft = soft
        packed = _packed(weight, index)
        y = x.new_empty(x.shape[0], weight.shape[0], x.shape[2])
        for image, output in zip(x, y, strict=True):
            torch.bmm(packed, _gathered(image, index), out=output.view(*packed.shape[:2], -1))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, index = ctx.saved_tensors
        dy = dy.contiguous()
        packed = _packed(weight, index)
        groups, n, _ = packed.shape
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx, transposed = torch.zeros_like(x), packed.transpose(1, 2)
            for image, gradient in zip(dx, dy, strict=True):
                image.index_add_(0, index.flatten(), torch.bmm(transposed, gradient.view(groups, n, -1)).flatten(0, 1))
        if ctx.needs_input_grad[1] and ctx.soft:
            dw = conv2d_weight(x.unsqueeze(2), weight.shape, dy.unsqueeze(2))
        elif ctx.needs_input_grad[1]:
            kept = torch.zeros_like(packed)
            for image, gradient in zip(x, dy, strict=True):
                kept.baddbmm_(gradient.view(groups, n, -1), _gathered(image, index).transpose(1, 2))
            dw = torch.zeros_like(weight).view(groups, n, -1).scatter_(2, _wide(index, n), kept).view(weight.shape)
        return dx, dw, None, None


def _wide(index: Tensor, n: int) -> Tensor:
    """[G, K] -> [G, n, K]."""
    return index.unsqueeze(1).expand(-1, n, -1)


def _packed(weight: Tensor, index: Tensor) -> Tensor:
    """The kept blocks, [G, N, K]."""
    groups = len(index)
    split = weight.reshape(groups, -1, weight.shape[1])
    return split.gather(2, _wide(index, split.shape[1]))


def _gathered(image: Tensor, index: Tensor) -> Tensor:
    """[I, P] -> the channels that each group keeps, [G, K, P]."""
    return image.index_select(0, index.flatten()).view(*index.shape, -1)
