"""Scores against their definitions, written out in plain loops."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subp.pruning import criteria


def some_blocks(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def cosine(a, b):
    lengths = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def bpar_by_loops(group, alpha):
    norms = [sum(abs(v) for v in block) for block in group]
    redundancy = [sum(abs(cosine(a, b)) for b in group) for a in group]
    shares = [r / sum(redundancy) if r else 1.0 for r in redundancy]
    return [norm / sum(norms) - alpha * share for norm, share in zip(norms, shares, strict=True)]


def test_l1_and_l2_are_sums_of_magnitudes_and_lengths():
    blocks = some_blocks(2, 3, 5)
    for scores, power in ((criteria.l1(blocks), 1), (criteria.l2(blocks), 2)):
        for g in range(2):
            for i in range(3):
                expected = sum(abs(v) ** power for v in blocks[g, i].tolist()) ** (1 / power)
                assert scores[g, i].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pairs_at_once", [1, 5, 10, 25, 50, 2500])  # a row, two rows, a group, two, all
def test_bpar_equals_its_formula_however_many_cosines_are_taken_at_once(monkeypatch, pairs_at_once):
    monkeypatch.setattr(criteria, "_PAIRS_AT_ONCE", pairs_at_once)
    blocks = some_blocks(3, 5, 6)
    blocks[1, 3] = 0
    scores = criteria.bpar(blocks, alpha=0.7)
    for g in range(3):
        assert scores[g].tolist() == pytest.approx(bpar_by_loops(blocks[g].tolist(), 0.7), abs=1e-6)


def test_bpar_ranks_a_block_of_its_own_direction_above_equal_long_ones_that_share_one():
    blocks = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]])
    assert criteria.bpar(blocks)[0].argmax() == 3


def test_bpar_of_a_group_of_zeros_is_finite():
    assert criteria.bpar(torch.zeros(1, 4, 8)).isfinite().all()


@pytest.mark.parametrize("groups, channels, pairs_at_once", [(8, 64, 64 * 64), (2, 64, 8 * 64), (1, 4096, 1 << 22)])
def test_bpar_never_holds_all_cosines(monkeypatch, groups, channels, pairs_at_once):
    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.largest = max([self.largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
            return result

    monkeypatch.setattr(criteria, "_PAIRS_AT_ONCE", pairs_at_once)
    blocks = some_blocks(groups, channels, 4)
    with Watch() as watch:
        criteria.bpar(blocks)
    assert watch.largest == pairs_at_once < groups * channels**2


def test_half_precision_weights_are_scored_in_full():
    blocks = some_blocks(2, 8, 16)
    for name in criteria.CRITERIA:
        scores = criteria.score(blocks.bfloat16(), name)
        assert scores.dtype == torch.float32
        assert torch.equal(scores, criteria.score(blocks.bfloat16().float(), name))
