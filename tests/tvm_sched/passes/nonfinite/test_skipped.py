"""An input that is not finite gives outputs that are not, wherever PyTorch's are not, though blocks are skipped."""

import math

import pytest
import torch
from quantised_networks import batches, block
from torch import nn
from torch.nn import functional as F
from zeros import prune

import tvm_sched

BATCH = 3


class Branches(nn.Module):
    """Layers with and without zeros, by Winograd and directly, one whose weight is zero, an output beside them all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 10)
        self.sparse, self.skipped = prune(nn.Conv2d(16, 16, 3, 1, 1), 16, 0.25), nn.Conv2d(16, 16, 1)
        nn.init.zeros_(self.skipped.weight)

    def forward(self, x):
        stem = F.relu(self.stem(x))
        return self.head(F.hardswish(self.sparse(stem)).mean((2, 3))), self.skipped(stem) + x[:, :1, ::2, ::2], stem


@pytest.fixture(scope="module")
def branches():
    network = Branches().eval()
    (x,) = batches(1, BATCH, 3, 16, 16)
    return network, x, tvm_sched.compile(network, x, threads=1)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_output_is_finite_where_pytorchs_is_not(branches, number):
    network, x, artifact = branches
    x = x.clone()
    x[1, 0, 5, 6] = number
    with torch.no_grad():
        expected = network(x)
    given = artifact(x)
    for ours, theirs in zip(given, expected, strict=True):
        assert not (ours.isfinite() & ~theirs.isfinite()).any()
    for image in (0, 2):  # others are as if nothing were
        torch.testing.assert_close([each[image] for each in given], [each[image] for each in expected])
    assert given[0][1].isnan().all() and given[1][1].isnan().all()
    torch.testing.assert_close(given[2], expected[2], equal_nan=True)  # which no layer before it skips


def test_what_is_finite_stays_as_it_is(branches):
    network, x, artifact = branches
    with torch.no_grad():
        torch.testing.assert_close(artifact(3e4 * x), network(3e4 * x), rtol=1e-4, atol=1.0)


def test_winograd_spreads_no_finite_number():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()).eval()
    (x,) = batches(1, 1, 16, 16, 16)
    artifact = tvm_sched.compile(network, x, threads=1)
    assert artifact.manifest["layers"][0]["kernel"].startswith("winograd")
    for number in (math.nan, math.inf, -math.inf):
        x[0, 3, 5, 6] = number
        with torch.no_grad():
            expected = network(x)
        given = artifact(x)
        assert not (given.isfinite() & ~expected.isfinite()).any()
        right = given.isfinite()
        torch.testing.assert_close(given[right], expected[right])


class Masked(nn.Module):
    """A mask that is added to scores, as attention's is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = prune(nn.Linear(16, 16), 16, 0.25)

    def forward(self, scores, mask):
        return self.out((scores + mask).softmax(-1))


def test_infinities_of_a_mask_keep_their_meaning():
    network = Masked().eval()
    scores, mask = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 16)
    mask[:, 5:9] = -math.inf
    artifact = tvm_sched.compile(network, (scores, mask), threads=1)
    with torch.no_grad():
        torch.testing.assert_close(artifact(scores, mask), network(scores, mask))
        mask[2, 0] = math.nan
        torch.testing.assert_close(artifact(scores, mask), network(scores, mask), equal_nan=True)


class Mended(nn.Module):
    """A network that sees to NaN and infinities itself."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.out = prune(nn.Linear(16, 16), 16, 0.25)

    def forward(self, x):
        return self.out(torch.nan_to_num(x, posinf=3.0, neginf=-3.0))


def test_a_network_that_mends_its_input_is_left_alone():
    network, x = Mended().eval(), torch.ones(2, 16)
    artifact = tvm_sched.compile(network, x, threads=1)
    x[0, 0], x[1, 1] = math.nan, math.inf
    with torch.no_grad():
        torch.testing.assert_close(artifact(x), network(x))


def test_integers_hide_no_nan():
    inputs = batches(4, 2, 3, 16, 16)
    artifact = tvm_sched.compile(block(), inputs[0], precision="int8", calibration=inputs, threads=1)
    x = inputs[0]
    before = artifact(x)
    x[1, 2, 3, 4] = math.nan
    after = artifact(x)
    assert after[1].isnan().all()
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
