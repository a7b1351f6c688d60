"""Small networks of many kinds: each has PyTorch's numbers, or is refused in a sentence that names the operator."""

from collections import namedtuple
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coverage_verdict import verdict
from torch import nn
from zeros import prune

import tvm_sched

TOLERANCE = 1e-4  # of the largest output
CHANNELS = 16
IMAGE, TOKENS, ROWS = (1, CHANNELS, 7, 10), (2, 6, 32), (4, CHANNELS)


class Through(nn.Module):
    """A function of the input and of what layers are given."""

    def __init__(self, function: Callable, *layers: nn.Module):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *inputs):
        return self.function(*inputs, *self.layers)


def conv(channels=CHANNELS, out_channels=CHANNELS, kernel=3, **options):
    return nn.Conv2d(channels, out_channels, kernel, padding=options.pop("padding", kernel // 2), **options)


def framed(function: Callable) -> nn.Module:
    """A function of an image between two convolutions."""
    return Through(lambda x, before, behind: behind(function(before(x))), conv(), conv())


def resized(**options) -> nn.Module:
    return framed(lambda x: F.interpolate(x, **options))


def sampled(**options) -> nn.Module:
    """A grid that turns, shrinks and leaves the image."""
    turn = torch.tensor([[[0.9, 0.5, 0.1], [-0.4, 1.2, -0.2]]])
    grid = F.affine_grid(turn, [1, CHANNELS, 5, 6], align_corners=False)
    return framed(lambda x: F.grid_sample(x, grid, **options))


def pooled_back(x, before):
    values, indices = F.max_pool2d(before(x), 3, stride=2, return_indices=True)
    return F.max_unpool2d(values, indices, 3, stride=2, output_size=x.shape[2:])


def turned_coordinates(x, before):
    y, x = before(x).chunk(2, 1)
    return torch.atan2(y, x)


def halves_swapped(x, before):
    a, b = before(x).chunk(2, 1)
    return torch.cat([b, a], 1) + x


def made_in_parts(x, before):
    y = before(x).clone()
    y[:, 2:5, 1:-1] *= 2
    y[..., -1] = 0
    return y


ARANGE = torch.arange(-5, 5)
BYTES = torch.arange(250, 260).to(torch.uint8)
Boxes = namedtuple("Boxes", "corners scores")

RESIZING = {
    "nearest up": lambda: resized(size=(13, 11)),
    "nearest down": lambda: resized(size=(3, 7)),
    "nearest by a broken factor": lambda: resized(scale_factor=(1.7, 0.6)),
    "nearest, factor computed anew": lambda: resized(scale_factor=1.7, recompute_scale_factor=True),
    "nearest-exact": lambda: resized(size=(5, 17), mode="nearest-exact"),
    "bilinear by a broken factor": lambda: resized(scale_factor=1.7, mode="bilinear"),
    "bilinear, factor computed anew": lambda: resized(scale_factor=0.6, mode="bilinear", recompute_scale_factor=True),
    "bilinear, corners aligned": lambda: resized(size=(9, 4), mode="bilinear", align_corners=True),
    "bilinear to one column, corners aligned": lambda: resized(size=(4, 1), mode="bilinear", align_corners=True),
    "bilinear, antialiased": lambda: resized(size=(3, 13), mode="bilinear", antialias=True),
    "bicubic down": lambda: resized(size=(4, 9), mode="bicubic"),
    "bicubic, corners aligned": lambda: resized(scale_factor=1.3, mode="bicubic", align_corners=True),
    "bicubic, antialiased": lambda: resized(size=(3, 5), mode="bicubic", antialias=True),
    "area": lambda: resized(size=(3, 4), mode="area"),
    "sampled, bilinear": lambda: sampled(align_corners=False),
    "sampled, nearest, border": lambda: sampled(mode="nearest", padding_mode="border", align_corners=True),
    "sampled, bicubic, reflected": lambda: sampled(mode="bicubic", padding_mode="reflection", align_corners=False),
    "pixels shuffled": lambda: framed(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2)[:, :, :8], 2)),
}
POOLING = {
    "average, cut off at the border": lambda: framed(lambda x: F.avg_pool2d(x, 3, 2, 1, True, False)),
    "average over a divisor": lambda: framed(lambda x: F.avg_pool2d(x, (2, 3), divisor_override=5)),
    "maximum, dilated, beyond the border": lambda: framed(lambda x: F.max_pool2d(x, 2, 2, 1, 2, ceil_mode=True)),
    "power": lambda: framed(lambda x: F.lp_pool2d(x.abs(), 3, 2)),
    "adaptive, overlapping": lambda: framed(lambda x: F.adaptive_avg_pool2d(x, (4, 3))),
    "adaptive maximum, overlapping": lambda: framed(lambda x: F.adaptive_max_pool2d(x, (5, 7))),
    "unpooled": lambda: Through(pooled_back, conv()),
    "windows taken apart and joined": lambda: framed(
        lambda x: F.fold(F.unfold(x, 3, padding=1), (7, 10), 3, padding=1)
    ),
    "in one dimension": lambda: Through(lambda x: F.max_pool1d(F.avg_pool1d(x, 3, 2), 2)),
}
REDUCTIONS = {
    "amin and amax": lambda: framed(lambda x: x - x.amin((1, 3), True) + x.amax(0)),
    "logsumexp": lambda: framed(lambda x: x - x.logsumexp((2, 3), keepdim=True)),
    "norms": lambda: framed(lambda x: x / x.norm(dim=1, keepdim=True) + x.norm(p=1, dim=(2, 3), keepdim=True)),
    "product": lambda: framed(lambda x: x.tanh() + x.prod(3, keepdim=True)),
    "deviation, biased and not": lambda: framed(lambda x: x * x.std(1, keepdim=True) + x.var((2, 3), False, True)),
    "deviation with mean": lambda: framed(lambda x: sum(torch.std_mean(x, (2, 3), keepdim=True)) + x),
    "running sums": lambda: framed(lambda x: x.cumsum(2) + x.sigmoid().cumprod(3)),
    "largest few": lambda: Through(lambda x: x.topk(3, 1)),
    "sorted": lambda: Through(lambda x: x.sort(1, descending=True)),
    "all, any, count": lambda: Through(
        lambda x: ((x > 0).all(1), (x > 2).any(1), (x > 0).sum(1), (x > 0).float().mean())
    ),
    "the middle one": lambda: Through(lambda x: x.median(1)),
}
PROMOTION = {
    "whole number over whole number": lambda: Through(lambda x: x[:, :10] + ARANGE / 4),
    "rounded down and towards zero": lambda: Through(
        lambda x: x[:, :10] + ARANGE // 3 + torch.div(ARANGE, 3, rounding_mode="trunc") + ARANGE % 3 + ARANGE.fmod(3)
    ),
    "bytes wrap": lambda: Through(lambda x: (BYTES + 10, BYTES * 2, ~BYTES, x)),
    "bytes and a fraction": lambda: Through(lambda x: x[:, :10] * (BYTES * 0.5)),
    "booleans counted": lambda: Through(lambda x: x * (x > 0).sum(1, keepdim=True) + (x > 0) * (x < 1)),
    "roots of whole numbers": lambda: Through(lambda x: x[:, :10] + ARANGE.abs().sqrt() + torch.exp(ARANGE)),
    "a power of a whole number": lambda: Through(lambda x: x[:, :10] + ARANGE**2 + ARANGE.abs() ** 0.5),
    "positions": lambda: Through(lambda x: x + x.argmin(1, keepdim=True) / x.shape[1]),
    "mean of whole numbers": lambda: Through(
        lambda x: x * ARANGE.float().mean() + torch.ones(3, dtype=torch.int64).sum()
    ),
    "a scalar of double precision": lambda: Through(lambda x: x * torch.tensor(0.1, dtype=torch.float64)),
    "double precision": lambda: Through(lambda x, layer: layer(x.double()).float(), nn.Linear(16, 8).double()),
    "where of whole numbers and fractions": lambda: Through(
        lambda x: torch.where(x > 0, 1, 0.5) + torch.where(x > 1, x, 2)
    ),
}
RESIDUALS = {
    "halves swapped": lambda: Through(halves_swapped, conv()),
    "plus its mirror": lambda: framed(lambda x: x + x.flip(2)),
    "plus itself, rolled": lambda: framed(lambda x: x - x.roll(1, 3)),
    "plus itself, turned": lambda: framed(lambda x: x[..., :7] + x[..., :7].transpose(2, 3)),
    "between two": lambda: Through(lambda x, a, b: torch.lerp(a(x), b(x), x.sigmoid()), conv(), conv()),
    "angle of two halves": lambda: Through(turned_coordinates, conv()),
    "a share of the input": lambda: Through(lambda x, a: 0.3 * x - a(x), nn.Linear(16, 16)),
    "a product, scaled, added": lambda: Through(lambda x: torch.baddbmm(x, x, x, beta=2, alpha=-1)),
    "in dense blocks": lambda: Through(
        lambda x, a, b: torch.cat([x, y := F.relu(a(x)), b(torch.cat([x, y], 1))], 1) * 0.5, conv(16, 16), conv(32, 32)
    ),
    "with its own square": lambda: framed(lambda x: x + x * x + x.abs()),
    "in place, on parts": lambda: Through(made_in_parts, conv()),
}
LAYERS = {
    "transposed": lambda: nn.Sequential(conv(), nn.ConvTranspose2d(16, 8, 3, 2, 1, output_padding=1, dilation=2)),
    "padded by reflection": lambda: nn.Sequential(conv(padding_mode="reflect"), conv(padding_mode="circular")),
    "grouped and dilated": lambda: nn.Sequential(conv(groups=4), conv(dilation=2, padding="same")),
    "two outputs a channel": lambda: conv(out_channels=32, groups=16),
    "norms of groups and instances": lambda: nn.Sequential(conv(), nn.GroupNorm(4, 16), nn.InstanceNorm2d(16), conv()),
    "norm over neighbours": lambda: nn.Sequential(conv(), nn.LocalResponseNorm(3), conv()),
    "weight normalised": lambda: nn.utils.parametrizations.weight_norm(conv()),
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d()),
    "unusual activations": lambda: nn.Sequential(conv(), nn.SELU(), nn.CELU(0.7), nn.Softshrink(), nn.Tanhshrink()),
    "gated": lambda: nn.Sequential(conv(), nn.GLU(1), nn.LogSigmoid()),
    "prelu, mish": lambda: nn.Sequential(conv(), nn.PReLU(16), nn.Mish(), nn.Hardswish(), nn.Softplus()),
    "in training mode": lambda: nn.Sequential(conv(), nn.BatchNorm2d(16), nn.Dropout()).train(),
}
SEQUENCES = {
    "attention without weights": lambda: Through(
        lambda x, a: a(x, x, x, need_weights=False), nn.MultiheadAttention(32, 2, batch_first=True)
    ),
    "attention with weights": lambda: Through(lambda x, a: a(x, x, x), nn.MultiheadAttention(32, 4)),
    "causal": lambda: Through(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "masked": lambda: Through(lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(6).bool())),
    "encoder": lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu"),
    "einsum": lambda: Through(lambda x: torch.einsum("bqc,bkc->bqk", x, x).softmax(-1)),
    "gathered": lambda: Through(lambda x: x.gather(1, x.argsort(1)[:, :2]) + x[:, [0, -1]]),
    "one hot": lambda: Through(lambda x: F.one_hot(x.argmax(1), 6).to(x) @ x.transpose(1, 2)[:, 0].mT),
    "recurrent": lambda: Through(lambda x, a: a(x)[0], nn.GRU(32, 16, batch_first=True)),
}
OUTPUTS = {
    "a named tuple in a dictionary": lambda: Through(lambda x, a: {"boxes": Boxes(a(x), x.mean()), "x": [x]}, conv()),
    "None and a number": lambda: Through(lambda x, a: (None, a(x), 3), conv()),
    "the same twice": lambda: Through(lambda x, a: (y := a(x), y), conv()),
    "no axes": lambda: Through(lambda x, a: a(x).sum(), conv()),
    "nothing to compute": lambda: Through(lambda x: (torch.linspace(0, 1, 4), x)),
    "constants alone": lambda: Through(lambda x: torch.ones(3, 4).cumsum(1)),
    "a constant beside": lambda: Through(lambda x, a: (a(x), torch.arange(3)), conv()),
}
HALF = {
    "half precision": lambda: nn.Sequential(conv(), nn.ReLU(), conv()).half(),
    "bfloat16": lambda: nn.Sequential(conv(), nn.ReLU()).bfloat16(),
    "complex": lambda: Through(lambda x, a: torch.complex(a(x), x).abs(), conv()),
    "a spectrum": lambda: Through(lambda x, a: torch.fft.rfft2(a(x)).abs(), conv()),
}
GROUPS = [
    (RESIZING, IMAGE),
    (POOLING, IMAGE),
    (REDUCTIONS, IMAGE),
    (PROMOTION, ROWS),
    (RESIDUALS, IMAGE),
    (LAYERS, IMAGE),
    (SEQUENCES, TOKENS),
    (OUTPUTS, IMAGE),
]
SHAPES = {"in one dimension": (2, 4, 21), "a share of the input": ROWS, "a product, scaled, added": (2, 5, 5)}
CASES = [
    pytest.param(make, SHAPES.get(name, shape), id=name) for group, shape in GROUPS for name, make in group.items()
]
REFUSED = {
    "noise": (lambda x, a: a(x) + torch.randn_like(x), "randn_like"),
    "dropout that goes on": (lambda x, a: F.dropout(a(x), training=True), "random numbers"),
    "a mask picks": (lambda x, a: a(x)[x > 0], "index"),
    "nonzero": (lambda x, a: (a(x) > 0).nonzero(), "nonzero"),
    "eigenvalues": (lambda x, a: torch.linalg.eigvalsh(a(x)[..., :7]), "eig"),
}


def judged(network: nn.Module, *inputs: torch.Tensor) -> dict:
    with torch.no_grad():
        wanted = network.eval()(*inputs)
    return verdict(network, inputs, wanted)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_a_network_has_pytorchs_numbers(make, shape):
    network, x = make(), torch.randn(shape)
    network(x)  # lazy modules take their shapes
    row = judged(prune(network, 16, 0.25), x)
    assert row["verdict"] == "right", row["said"]
    assert float(row["error"]) < TOLERANCE


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in HALF.items()])
def test_what_is_not_real_or_not_float32_is_right_or_refused(make):
    network = make()
    dtype = next(network.parameters()).dtype
    row = judged(network, torch.randn(IMAGE).to(dtype))
    assert row["verdict"] in ("right", "refused"), row["said"]


@pytest.mark.parametrize(("function", "word"), [pytest.param(*case, id=name) for name, case in REFUSED.items()])
def test_what_cannot_be_is_refused_by_name(function, word):
    row = judged(Through(function, conv()), torch.randn(IMAGE))
    assert row["verdict"] == "refused" and word in row["said"], row["said"]


def test_a_batch_of_one_in_training_mode():
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU()).train()
    x = torch.randn(1, 8)
    row = verdict(network, (x,), nn.Sequential(*network).eval()(x).detach())
    assert row["verdict"] == "right", row["said"]


def test_a_lazy_module_is_made_by_the_first_call():
    network, x = nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), nn.ReLU()), torch.randn(IMAGE)
    artifact = tvm_sched.compile(network, x)
    np.testing.assert_allclose(artifact(x.numpy()), network.eval()(x).detach(), rtol=0, atol=1e-5)


def test_whole_numbers_and_booleans_come_in():
    embed = Through(lambda words, kept, table: (table(words) * kept[..., None]).sum(1), nn.Embedding(20, 8))
    words, kept = torch.randint(20, (2, 5)), torch.tensor([[True, True, False, False, False], [True] * 5])
    row = judged(embed, words, kept)
    assert row["verdict"] == "right", row["said"]
