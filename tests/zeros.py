"""Zeros as pruning leaves them, for tests that deploy networks."""

import numpy as np
import torch
from torch import nn


def keep_blocks(weight: np.ndarray, n: int, kept: int | list[int], seed: int = 0) -> np.ndarray:
    """A copy of `weight [O, C, ...]`: each group of `n` output channels keeps `kept` random input channels, a number or
    one a group.
    """
    rng = np.random.default_rng(seed)
    pruned = np.zeros_like(weight)
    groups = range(0, len(weight), n)
    for start, count in zip(groups, [kept] * len(groups) if isinstance(kept, int) else kept, strict=True):
        channels = rng.permutation(weight.shape[1])[:count]
        pruned[start : start + n, channels] = weight[start : start + n, channels]
    return pruned


def prune(network: nn.Module, n: int, density: float) -> nn.Module:
    """Uniform 1xN zeros in every Conv2d and Linear layer (attention's input projection too) that `n` divides; at least
    a block a group stays.
    """
    for number, (name, weight) in enumerate(network.named_parameters()):
        if weight.ndim in (2, 4) and name.endswith("weight") and len(weight) % n == 0 and weight.shape[1] > 1:
            kept = max(1, round(density * weight.shape[1]))
            weight.data = torch.from_numpy(keep_blocks(weight.detach().numpy(), n, kept, seed=number))
    return network


def calibrate(network: nn.Module, x: torch.Tensor) -> nn.Module:
    """Batch norms with the statistics of `x` and affine terms of their own, so that outputs are of unit scale; in eval
    mode.
    """
    for norm in (m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.momentum = None  # average of the batches seen
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        network.train()(x)
    return network.eval()
