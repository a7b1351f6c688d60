"""Copies of a masked model whose weights, and perhaps masks, are averages: folded, they have the sparsifier's zeros."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from subp import Sparsifier
from subp.pruning import masking
from subp_contract.errors import UserError

KEPT = 0.8  # of the average, in a step


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, 4)
    )


PRUNED = (2, 4)


def averaged_model(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(KEPT), use_buffers=True)
    return average, lambda: average.update_parameters(model)


def every_entry(model):
    """An average of all entries of the state dict."""
    average = copy.deepcopy(model)

    @torch.no_grad()
    def update():
        for own, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            own.copy_(KEPT * own + (1 - KEPT) * new)

    return average, update


def trained(make, **options):
    """(sparsifier, average, its trained weights by their formula) after epochs in which the masks shrink."""
    model = network()
    sparsifier = Sparsifier(model, **({"n": 4, "sparsity": 0.75, "epochs": 4} | options))
    average, update = make(model)
    weights = [model[layer].parametrizations.weight.original for layer in PRUNED]
    expected, fresh = [weight.detach().clone() for weight in weights], isinstance(average, AveragedModel)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(4):
        sparsifier.step(epoch)
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6)).square().mean().backward()
        optimizer.step()
        update()
        keep, fresh = (0.0 if fresh else KEPT), False  # AveragedModel begins with the first weights
        expected = [keep * own + (1 - keep) * new.detach() for own, new in zip(expected, weights, strict=True)]
    return sparsifier, average, expected


def dense(mask):
    return mask.repeat_interleave(4, 0)


@pytest.mark.parametrize("make", [averaged_model, every_entry])
def test_an_average_of_the_buffers_too_gets_the_sparsifiers_zeros(make):
    sparsifier, average, expected = trained(make)
    masks = list(sparsifier.masks.values())
    inner = average.module if isinstance(average, AveragedModel) else average
    assert inner[2].parametrizations.weight[0].mask.sum() > masks[0].sum()  # what is mended here
    assert sparsifier.fold(average) is average
    for layer, mask, weight in zip(PRUNED, masks, expected, strict=True):
        kept = dense(mask).reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
        torch.testing.assert_close(inner[layer].weight.detach(), torch.where(kept, weight, 0))
    assert sparsifier.density == pytest.approx(0.25) and sparsifier.attached


def test_an_average_can_have_the_masks_before_it_is_folded():
    sparsifier, average, _ = trained(averaged_model)
    assert sparsifier.share_masks(average) is average.module
    x = torch.randn(2, 3, 6, 6)
    outputs = average.eval()(x)
    torch.testing.assert_close(sparsifier.fold(average)(x), outputs)


def test_masks_that_follow_the_weights_follow_the_averages():
    sparsifier, average, expected = trained(averaged_model, method="sr-ste", m=4)
    sparsifier.fold(average)
    groups = expected[1].unflatten(1, (-1, 4))
    largest = groups.abs() == groups.abs().amax(2, keepdim=True)  # 1 of 4
    torch.testing.assert_close(average.module[4].weight.detach(), torch.where(largest, groups, 0).flatten(1))


def test_a_soup_of_checkpoints_is_folded_in_a_copy():
    sparsifier, _, _ = trained(every_entry)
    states = [copy.deepcopy(sparsifier.model.state_dict()) for _ in range(2)]
    states[1]["2.parametrizations.weight.0.mask"].logical_not_()
    soup = copy.deepcopy(sparsifier.model)
    soup.load_state_dict({name: states[0][name] / 2 + states[1][name] / 2 for name in states[0]})
    assert (sparsifier.fold(soup)[2].weight != 0).float().mean() == pytest.approx(0.25)


def test_a_wrapped_average_whose_filters_were_regrouped_computes_what_it_did():
    model = network()
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, epochs=2, method="hrbp", input_shape=(3, 6, 6))
    average = AveragedModel(model, use_buffers=False)
    for epoch in range(2):
        sparsifier.step(epoch)
    average.update_parameters(model)
    sparsifier.share_masks(average)
    x = torch.randn(2, 3, 6, 6)
    outputs = average.eval()(x)
    torch.testing.assert_close(sparsifier.fold(average)(x), outputs)


def test_models_without_these_masks_are_refused():
    sparsifier, _, _ = trained(every_entry)
    wider, narrower = network(), network()
    Sparsifier(wider, n=4, epochs=1, include=["0"])
    Sparsifier(narrower, n=8, epochs=1)
    for other in (network(), wider, narrower):
        masked = sum(len(masking.masked_weights(layer)) for layer in other.modules())
        with pytest.raises(UserError, match="Sequential has other masks than this sparsifier: give a copy"):
            sparsifier.fold(other)
        assert masked == sum(len(masking.masked_weights(layer)) for layer in other.modules())
