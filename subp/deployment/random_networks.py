"""Networks and single layers with random weights and random uniform 1xN zeros: all that a comparison of latencies
needs, for they do not depend on the weights' values.
"""

import torch
from torch import Tensor, nn

from subp import models
from subp.deployment.unit_scale import to_unit_scale
from subp.pruning.sparsifier import Sparsifier
from tvm_sched.bench.engines import Network
from tvm_sched.bench.suite import LayerShape

CLASSES = 1000  # of a named network


def random_network(name: str, *, n: int, sparsity: float, seed: int, size: int, batch: int) -> Network:
    """A named network with random weights and a random uniform 1xN mask on all but stem and classifier.

    Its activations and outputs are of about unit scale on random images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.create(name, CLASSES)
        randomise(module, torch.randn(8, 3, size, size), n=n, sparsity=sparsity, seed=seed)
        x = torch.randn(batch, 3, size, size)
    return Network.of(name, module, x)


def randomise(module: nn.Module, images: Tensor, *, n: int, sparsity: float, seed: int) -> None:
    """Prunes a network of random weights to a random uniform 1xN mask on all but stem and classifier, and scales it so
    that its activations and outputs are of about unit scale on `images`. It is left in evaluation mode.
    """
    if sparsity:
        # Of random weights the largest blocks are random ones.
        sparsifier = Sparsifier(module, n=n, sparsity=sparsity, criterion="l1", epochs=1, start=0, end=0, seed=seed)
        sparsifier.step(0)
        sparsifier.fold()
    to_unit_scale(module, images)


def random_layer(shape: LayerShape, *, n: int, sparsity: float, batch: int) -> Network:
    """A single layer with bias and ReLU, random weights and a random uniform 1xN mask; at least a block a group stays.

    A convolution takes and gives [B, H, W, C], as inside a network of ours, so that nothing is transposed around it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if shape.size is None:
            layer = nn.Linear(shape.channels, shape.out_channels)
            x = torch.randn(batch, shape.channels)
        else:
            sizes = {"stride": shape.stride, "padding": shape.kernel // 2, "groups": shape.groups}
            layer = nn.Conv2d(shape.channels, shape.out_channels, shape.kernel, **sizes)
            x = torch.randn(batch, shape.size, shape.size, shape.channels)
        if sparsity:
            rows, channels = -(-shape.out_channels // n), layer.weight.shape[1]
            kept = torch.rand(rows, channels).argsort(1) < max(1, round(channels * (1 - sparsity)))
            mask = kept.repeat_interleave(n, 0)[: shape.out_channels]
            layer.weight.data *= mask.reshape(*mask.shape, *[1] * (layer.weight.ndim - 2))
    layer = nn.Sequential(layer, nn.ReLU()).eval()
    module = layer if shape.size is None else ChannelsLast(layer)
    return Network(shape.name, module.eval(), x, n if sparsity else None, sparsity)


class ChannelsLast(nn.Module):
    """The layer with its input and output as [B, H, W, C]; `layer` is the one given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
