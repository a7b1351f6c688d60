"""How far masks moved, against masks counted by hand."""

import math

import torch
from torch import nn

from subp import Sparsifier
from subp.pruning.block_masks import Churn, churn, churn_by_layer


def moved_by(sparsifier, epoch):
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    sparsifier.step(epoch)
    return churn_by_layer(before, sparsifier.masks)


def test_a_masks_churn_is_what_it_lost_and_what_it_gained():
    before = torch.tensor([[True, True, False, False], [True, False, True, False]])
    after = torch.tensor([[True, False, False, True], [True, True, True, False]])
    assert churn(before, after) == Churn(kept=5, of=8, pruned=1, grown=2)
    assert churn(after, before) == Churn(kept=4, of=8, pruned=2, grown=1)


def test_all_layers_are_told_where_one_moved_and_none_where_none_did():
    before = {"a": torch.tensor([[True, True]]), "b": torch.tensor([[True, False]])}
    after = {"a": torch.tensor([[True, False]]), "b": torch.tensor([[True, False]])}
    assert churn_by_layer(before, after) == {"a": (1, 2, 1, 0), "b": (1, 2, 0, 0)}
    assert churn_by_layer(before, before) == {}


def test_rigl_grows_as_many_as_it_prunes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(16, 8, bias=False), nn.Linear(8, 4))
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, method="rigl", swapped=0.5, epochs=8, end=6, exclude="0")
    assert moved_by(sparsifier, 0) == {"1": (16, 32, 16, 0)}  # two rows of 16 blocks
    assert moved_by(sparsifier, 1) == {}  # nothing was trained
    # Gradients are largest where the mask is not, so of a row's 8 blocks the swapped ones are all others than before.
    unlike = (~sparsifier.masks["1"]).float().repeat_interleave(4, 0)
    (model[1].weight * unlike).sum().backward()
    swapped = math.floor(0.5 / 2 * (1 + math.cos(math.pi * 2 / 6)) * 8)
    assert swapped == 3 and moved_by(sparsifier, 2) == {"1": (16, 32, 2 * swapped, 2 * swapped)}


def test_gradual_pruning_of_weights_that_stay_only_shrinks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    sparsifier = Sparsifier(
        model, sparsity=0.75, method="magnitude", schedule="linear", epochs=6, start=0, end=4
    )  # of 48 weights 9 and of 64 weights 12 more in each of four epochs
    told = [moved_by(sparsifier, epoch) for epoch in range(6)]
    assert told == [
        {},
        *({"0": (48 - 9 * epoch, 48, 9, 0), "1": (64 - 12 * epoch, 64, 12, 0)} for epoch in range(1, 5)),
        {},
    ]
