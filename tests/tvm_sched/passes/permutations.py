"""What is left of a network's permutations once activations are channels last."""

import torch
from relax_run import expect_equal, imported, operators
from torch import nn

from tvm_sched import pipeline
from tvm_sched.passes.graph.channels_last import channels_last


def converted(network, x):
    """The module after the pass, simplified as the pipeline does it; checked against PyTorch."""
    mod = pipeline.SIMPLIFY(channels_last(imported(network, x)))
    expect_equal(mod, network, x)
    return mod


def permutations(network, *shape):
    """How many permutations of axes are left in the network."""
    torch.manual_seed(0)
    return operators(converted(network, torch.randn(shape))).count("permute_dims")


class Then(nn.Module):
    """A convolution, then functions (or modules), each a result of the network: a function's input is channels last."""

    def __init__(self, *functions, out_channels=8):
        super().__init__()
        self.conv, self.functions = nn.Conv2d(4, out_channels, 3, padding=1), functions

    def forward(self, x):
        y = self.conv(x)
        return tuple(function(y) for function in self.functions)
