"""ST-3 by blocks: what it computes with, its gradient, and that weights, state dicts and averages fold alike."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning import masking
from subp.pruning.soft_threshold import shrunk


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, 4))


def by_hand(weight, mask, n):
    """As the module's docstring has it, block by block, in NumPy's float64."""
    result = np.zeros_like(weight, dtype=np.float64)
    for group, row in enumerate(mask):
        of_group = weight[group * n : group * n + n].astype(np.float64)
        norms = [np.sqrt((of_group[:, i] ** 2).sum()) for i in range(len(row))]
        t = max([norm for norm, kept in zip(norms, row, strict=True) if not kept], default=0.0)
        s = sum(norms) / sum(norm for norm, kept in zip(norms, row, strict=True) if kept)
        for i in np.flatnonzero(row):
            result[group * n : group * n + n, i] = s * max(0, 1 - t / norms[i]) * of_group[:, i]
    return result


def epoch_of(model, optimizer, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(8, 3, 6, 6)), torch.arange(8) % 4).backward()
        optimizer.step()


def test_kept_blocks_shrink_by_the_largest_norm_pruned_and_their_group_is_scaled_up():
    weight = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, True, False, True], [True] * 6])
    mask[0, weight[:4].square().sum((0, 2, 3)).argmin()] = False
    got = shrunk(weight, mask)
    np.testing.assert_allclose(got, by_hand(weight.numpy(), mask.numpy(), 4), rtol=1e-5, atol=1e-7)
    assert torch.equal(got[4:], weight[4:])  # nothing pruned


def test_masks_follow_the_weights_with_the_epochs_count_and_gradients_pass_straight_through():
    model = layers()
    sparsifier = Sparsifier(model, n=4, sparsity=0.75, method="st-3", epochs=4, start=0, end=2, decay=0.0)
    sparsifier.step(0)
    assert sparsifier.density == 1
    sparsifier.step(1)
    assert sparsifier.masks["1"].sum(1).tolist() == [3, 3]  # of 8, by p_1 = 0.75 * 0.875
    weight, mask = masking.trained_weight(model[1]), sparsifier.masks["1"].clone()
    norms = weight.detach().reshape(2, 4, 8, 9).square().sum((1, 3))
    assert torch.equal(mask, norms >= norms.sort(1, descending=True).values[:, 2:3])
    with torch.no_grad():
        weight.copy_(weight.roll(1, 1))
    masked = model[1].weight
    assert torch.equal(sparsifier.masks["1"], mask.roll(1, 1))
    np.testing.assert_allclose(
        masked.detach(), by_hand(weight.detach().numpy(), mask.roll(1, 1).numpy(), 4), rtol=1e-5, atol=1e-7
    )
    wanted = torch.randn(weight.shape)
    (masked * wanted).sum().backward()
    assert torch.equal(weight.grad, wanted)


def test_a_block_is_zero_when_it_goes_and_when_it_comes_back():
    model = layers()
    Sparsifier(model, n=4, sparsity=0.5, method="st-3", epochs=1, start=0, end=0).step(0)
    weight = masking.trained_weight(model[3])
    with torch.no_grad():
        norms = weight[:4].norm(dim=0).sort(descending=True)
        last, first = norms.indices[15], norms.indices[16]  # kept, pruned
        size = norms.values[16].item()
        for factor, kept in ((0.999, False), (1.001, True)):
            weight[:4, last] *= size / weight[:4, last].norm()
            weight[:4, first] *= factor * size / weight[:4, first].norm()
            computed = model[3].weight
            assert bool(computed[:4, first].any()) == kept
            assert computed[:4, [first, last]].abs().max() < 0.01 * weight[:4].abs().max()


@pytest.mark.parametrize("soft", [True, False])
def test_fold_state_dicts_and_averages_have_the_weights_that_the_network_computed_with(soft):
    model = layers()
    sparsifier = Sparsifier(model, n=4, sparsity=0.75, method="st-3", epochs=3, soft=soft)
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        sparsifier.step(epoch)
        epoch_of(model, optimizer)
        average.update_parameters(model)
    trained = masking.trained_weight(average.module[1]).detach().clone()
    x = torch.randn(2, 3, 6, 6)
    expected, state = model.eval()(x), copy.deepcopy(model.state_dict())
    folded = sparsifier.fold()
    assert torch.equal(folded(x), expected)
    plain = layers()
    plain.load_state_dict(masking.fold_state_dict(state))
    assert torch.equal(plain(x), expected)
    averaged = sparsifier.fold(average).module[1].weight
    mask = averaged.detach().reshape(2, 4, 8, 9).ne(0).any(1).any(-1)
    assert mask.sum(1).tolist() == [2, 2]
    np.testing.assert_allclose(averaged.detach(), by_hand(trained.numpy(), mask.numpy(), 4), rtol=1e-4, atol=1e-6)
