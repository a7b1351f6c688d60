"""What follows a kernel and has another shape than its output is computed apart."""

import pytest
import torch
import torch.nn.functional as F
from together import require_pytorchs
from torch import nn


@pytest.mark.parametrize("channels", [8, 16, 24])
def test_margins_and_first_rows_behind_a_layer(channels):
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, channels, 3, padding=1), nn.Linear(8, channels)
    functions = {
        "behind": lambda x: F.pad(conv(x).relu(), (0, 1, 0, 2)),
        "more channels": lambda x: F.pad(conv(x), (0, 0, 0, 0, 0, 3)),
        "before": lambda x: F.pad(conv(x), (1, 0, 2, 0)),
        "first rows": lambda x: conv(x)[:, :, :5].relu(),
        "first channels": lambda x: conv(x)[:, :4] * 2,
        "of a linear layer": lambda x: (F.pad(linear(x), (0, 5)), linear(x)[..., :3], linear(x)[:, :1]),
        "scaled": lambda x: conv(x) * conv(x).mean((2, 3), keepdim=True),
    }
    require_pytorchs(functions, torch.randn(1, 3, 8, 8))
