"""Attention's projections are pruned like linear layers."""

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning import masking, summary
from subp.pruning.selection import select_layers

E = 32


class Encoder(nn.Module):
    """Attention over 5 tokens, and a classifier."""

    def __init__(self, **sizes):
        super().__init__()
        self.attention = nn.MultiheadAttention(E, 4, batch_first=True, **sizes)
        self.head = nn.Linear(E, 10)

    def forward(self, x):
        x = x.reshape(-1, 5, E)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.fixture
def pruned():
    """(network, its sparsifier after the last step)"""
    torch.manual_seed(0)
    model = Encoder()
    sparsifier = Sparsifier(model, n=8, sparsity=0.75, epochs=2)
    sparsifier.step(1)
    return model, sparsifier


def test_both_projections_are_pruned_uniformly_and_the_classifier_is_not(pruned):
    _model, sparsifier = pruned
    assert {name: tuple(mask.shape) for name, mask in sparsifier.masks.items()} == {
        "attention": (3 * E // 8, E),
        "attention.out_proj": (E // 8, E),
    }
    assert all((mask.sum(1) == E // 4).all() for mask in sparsifier.masks.values())
    rows = {row.name: (row.type, row.density) for row in sparsifier.summary()}
    assert rows["attention"] == ("MultiheadAttention", 0.25)
    assert rows["head"] == ("Linear", 1.0)


@pytest.mark.parametrize("training", [True, False])
def test_attention_computes_with_the_masked_weights(pruned, training):
    model, sparsifier = pruned
    plain = Encoder()
    plain.load_state_dict(masking.fold_state_dict(model.state_dict()))
    mask = sparsifier.masks["attention"].repeat_interleave(8, 0)
    assert (plain.attention.in_proj_weight[~mask] == 0).all() and (plain.attention.in_proj_weight[mask] != 0).all()
    x = torch.randn(2, 5 * E)
    with torch.set_grad_enabled(training):
        outputs = model.train(training)(x), plain.train(training)(x)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-6)


def test_training_reaches_the_weights_behind_the_masks(pruned):
    model, sparsifier = pruned
    model(torch.randn(2, 5 * E)).sum().backward()
    gradient = masking.trained_weight(model.attention).grad
    pruned_away = ~sparsifier.masks["attention"].repeat_interleave(8, 0)
    assert gradient[pruned_away].abs().sum() > 0  # straight through


def test_folding_gives_the_plain_module_and_the_folded_state_dict(pruned):
    model, sparsifier = pruned
    x = torch.randn(2, 5 * E)
    before, state = model.eval()(x), masking.fold_state_dict(model.state_dict())
    folded = sparsifier.fold()
    assert type(folded.attention) is nn.MultiheadAttention
    assert list(folded.state_dict()) == list(Encoder().state_dict())
    assert state.keys() == folded.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in folded.state_dict().items())
    torch.testing.assert_close(folded(x), before, rtol=0, atol=1e-6)


def test_state_is_loaded_into_another_sparsifier(pruned):
    _model, sparsifier = pruned
    other = Sparsifier(Encoder(), n=8, sparsity=0.75, epochs=2)
    other.load_state_dict(sparsifier.state_dict())
    assert torch.equal(other.masks["attention"], sparsifier.masks["attention"])


def test_attention_of_other_keys_stays_dense_for_a_reason():
    model = nn.Sequential(nn.Linear(16, 16), nn.MultiheadAttention(E, 4, kdim=16), nn.Linear(16, 16))
    layers, skipped = select_layers(model, 8)
    assert list(layers) == ["0", "1.out_proj"]
    assert skipped["1"] == "its queries, keys and values have a weight each"
    assert [row.name for row in summary.inspect(model)] == ["0", "1.out_proj", "2"]


def test_the_summary_counts_both_projections(pruned):
    rows = {row.name: row for row in summary.inspect(pruned[1].fold(), input_shape=(5 * E,))}
    attention, output = rows["attention"], rows["attention.out_proj"]
    assert (attention.n, attention.density, attention.macs) == (8, 0.25, 5 * 3 * E * E)
    assert (output.n, output.density, output.macs) == (8, 0.25, 5 * E * E)
    assert attention.shape == (3 * E, E)
