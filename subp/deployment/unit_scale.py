"""Random networks whose activations neither vanish nor explode, so that an error made anywhere is seen at the end."""

import torch
from torch import Tensor, nn


def to_unit_scale(module: nn.Module, images: Tensor) -> None:
    """Scales the weights of every convolution and linear layer to outputs of standard deviation 1 on `images`
    [B, C, H, W], and gives every batch norm their statistics. Zeros stay zero, but for parameters that are all (nearly)
    zero at first (biases, scales of residual branches, some heads): these hide what is behind them, and become random.
    The module is left in evaluation mode.
    """
    for parameter in module.parameters():
        if parameter.abs().max() < 1e-3:
            nn.init.normal_(parameter, std=0.1)

    def divide(layer, _inputs, output):
        deviation = output.std()
        if not 0 < deviation < float("inf"):
            return output
        for parameter in layer.parameters(recurse=False):
            parameter.div_(deviation)
        return output / deviation

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    norms = [layer for layer in module.eval().modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    hooks = [layer.register_forward_hook(divide) for layer in layers]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the mean of all batches seen
    with torch.no_grad():
        module(images)
    for hook in hooks:
        hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
