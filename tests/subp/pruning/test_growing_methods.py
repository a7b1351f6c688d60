"""Methods in which pruned blocks come back: RigL, AC/DC, SR-STE by blocks and SUBP by gradient, block by block."""

import math

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning.masking import trained_weight
from subp.pruning.methods.every_epoch import ac_dc, rigl, subp
from subp_contract.errors import UserError


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4))


def with_gradient(model, gradient):
    """One backward pass in which layer 1's masked weight has that gradient."""
    (model[1].weight * gradient).sum().backward()
    model.zero_grad()


def test_rigl_swaps_the_smallest_for_those_of_largest_gradient():
    norms = torch.tensor([[4.0, 1.0, 3.0, 2.0, 9.0, 9.0]])
    gradients = torch.tensor([[9.0, 0.5, 9.0, 0.4, 1.0, 2.0]])
    active = torch.tensor([[True, True, True, True, False, False]])
    assert rigl.step(norms, gradients, active, 0.25).tolist() == [[True, False, True, True, False, True]]
    assert rigl.step(norms, gradients, active, 0.5).tolist() == [[True, False, True, False, True, True]]
    assert torch.equal(rigl.step(norms, gradients, active, 0.0), active)


def test_rigl_may_grow_at_once_what_it_drops():
    mask = rigl.step(
        torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 5.0, 1.0]]), torch.tensor([[True, True, False]]), 0.5
    )
    assert mask.tolist() == [[True, True, False]]


def test_rigls_share_falls_by_half_a_cosine():
    assert [rigl.swapped_share(0.3, epoch, 4) for epoch in range(6)] == pytest.approx(
        [0.15 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)] + [0, 0]
    )


def test_rigl_trains_sparse_throughout_and_grows_from_zero():
    model = layers()
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, method="rigl", swapped=0.5, epochs=8, end=6)
    sparsifier.step(0)
    before = sparsifier.masks["1"].clone()
    assert before.sum(1).tolist() == [4, 4]
    sparsifier.step(1)
    assert torch.equal(sparsifier.masks["1"], before)  # nothing was trained
    wanted = (~before).float().repeat_interleave(4, 0) * torch.arange(1.0, 9.0)
    with_gradient(model, wanted)
    sparsifier.step(2)
    after = sparsifier.masks["1"].clone()
    grown = after & ~before
    # f_2 = 0.25 (1 + cos(pi / 3)) = 0.375 of 4 blocks: the one whose gradient is largest.
    assert torch.equal(grown.float().argmax(1), torch.where(before, 0.0, torch.arange(1.0, 9.0)).argmax(1))
    assert grown.sum(1).tolist() == [1, 1] and after.sum(1).tolist() == [4, 4]
    assert not trained_weight(model[1])[grown.repeat_interleave(4, 0)].any()
    sparsifier.step(6)
    with_gradient(model, wanted)
    sparsifier.step(7)
    assert torch.equal(sparsifier.masks["1"], after)


def test_phases_alternate_between_start_and_end():
    assert [ac_dc.is_compressed(epoch, 2, 9, 2) for epoch in range(11)] == [
        False, False, True, True, False, False, True, True, False, True, True
    ]  # fmt: skip


def test_ac_dc_keeps_the_best_of_each_dense_phase_and_returns_the_rest_from_zero():
    model = layers()
    sparsifier = Sparsifier(model, n=4, sparsity=0.75, method="ac-dc", phase=2, epochs=8, start=1, end=5)
    weight, kept = trained_weight(model[1]), []
    for epoch in range(8):
        before = weight.detach().clone()
        norms = before.reshape(2, 4, 8).square().sum(1).sqrt()
        sparsifier.step(epoch)
        mask = sparsifier.masks["1"].clone()
        if epoch in (0, 3, 4):
            assert mask.all()
        elif epoch in (1, 5):
            assert torch.equal(mask, torch.zeros(2, 8).scatter(1, norms.topk(2).indices, 1).bool())
            kept.append(mask)
        else:
            assert torch.equal(mask, kept[-1])
        if epoch == 3:
            pruned = ~kept[0].repeat_interleave(4, 0)
            assert before[pruned].any() and not weight[pruned].any()
        with torch.no_grad():
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(epoch))
    assert not torch.equal(*kept)


def test_sr_ste_by_blocks_follows_the_weights_at_every_forward_pass():
    model = layers()
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, method="sr-ste-block", epochs=1)
    sparsifier.step(0)
    weight = trained_weight(model[1])
    with torch.no_grad():
        weight.copy_(torch.randn(8, 8, generator=torch.Generator().manual_seed(5)))
    model(torch.randn(2, 6)).sum().backward()
    norms = weight.detach().reshape(2, 4, 8).norm(dim=1)
    assert torch.equal(sparsifier.masks["1"], torch.zeros(2, 8).scatter(1, norms.topk(4).indices, 1).bool())
    with pytest.raises(UserError, match="choose the allocation equal or erk"):
        Sparsifier(layers(), n=4, method="sr-ste-block", allocation="global", epochs=1)


def test_subp_by_gradient_regrows_what_was_pruned_long_ago():
    scores = torch.tensor([[8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    wanted = torch.tensor([[0.0, 0.0, 0.0, 1.0, 2.0, 9.0, 8.0, 0.0]])
    draws = torch.Generator().manual_seed(0)
    mask = subp.step(scores, 0.75, 0.5, 0.001, draws, regrow_by=wanted)
    assert mask.tolist() == [[True, True, False, False, False, True, True, False]]


def test_subp_by_gradient_takes_back_the_weights_that_a_block_had():
    model = layers()
    sparsifier = Sparsifier(
        model, n=4, sparsity=0.75, method="subp-gradient", tau=0.001, schedule="linear", epochs=4, start=0, end=3
    )
    for epoch in (0, 1):
        sparsifier.step(epoch)
    before, weight = sparsifier.masks["1"].clone(), trained_weight(model[1]).detach().clone()
    with_gradient(model, (~before).float().repeat_interleave(4, 0))
    sparsifier.step(2)
    back = sparsifier.masks["1"] & ~before
    assert (back.sum(1) == 2).all() and sparsifier.masks["1"].sum(1).tolist() == [4, 4]
    assert torch.equal(trained_weight(model[1]), weight)
