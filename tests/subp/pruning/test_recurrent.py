"""Recurrent layers: the matrices of all gates are pruned in blocks that lie within one gate."""

import copy

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.pruning import masking

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}
HIDDEN, INPUTS, STEPS = 8, 12, 5


class Reader(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(INPUTS, HIDDEN, batch_first=True, **options)
        self.head = nn.Linear(HIDDEN * (1 + self.rnn.bidirectional), 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def pruned(kind, **options):
    torch.manual_seed(0)
    model = Reader(kind, **options)
    sparsifier = Sparsifier(model, n=4, sparsity=0.75, epochs=2)
    sparsifier.step(1)
    return model, sparsifier


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
@pytest.mark.parametrize("training", [True, False])
def test_recurrent_layers_compute_with_their_masked_weights_and_fold_to_the_same(kind, options, training):
    model, sparsifier = pruned(kind, **options)
    x = torch.randn(2, STEPS, INPUTS)
    plain = Reader(kind, **options)
    plain.load_state_dict(masking.fold_state_dict(model.state_dict()))
    names = list(plain.state_dict())
    for name, mask in sparsifier.masks.items():
        weight = plain.get_parameter(name)
        assert mask.shape == (GATES[kind] * HIDDEN // 4, weight.shape[1])
        assert torch.equal(weight != 0, mask.repeat_interleave(4, 0))
        assert (mask.sum(1) == weight.shape[1] // 4).all()
    with torch.set_grad_enabled(training):
        expected = plain.train(training)(x)
        torch.testing.assert_close(model.train(training)(x), expected, rtol=0, atol=1e-6)
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin(x), expected, rtol=0, atol=1e-6)
    folded = sparsifier.fold()
    assert type(folded.rnn) is kind and list(folded.state_dict()) == names
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-6)


def test_training_moves_pruned_and_kept_weights_and_the_output_follows():
    model, sparsifier = pruned(nn.LSTM)
    x = torch.randn(2, STEPS, INPUTS)
    before = model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before.square().sum().backward()
    gradient = masking.trained_weight(model.rnn, "weight_hh_l0").grad
    assert (gradient[~sparsifier.masks["rnn.weight_hh_l0"].repeat_interleave(4, 0)] != 0).all()
    optimizer.step()
    assert not torch.allclose(model(x), before)


def test_a_moved_layer_keeps_its_masks():
    model, sparsifier = pruned(nn.GRU)
    x = torch.randn(2, STEPS, INPUTS, dtype=torch.float64)
    model.double()
    before = model(x)
    assert not masking.weight_of(model.rnn, "weight_ih_l0")[
        ~sparsifier.masks["rnn.weight_ih_l0"].repeat_interleave(4, 0)
    ].any()
    torch.testing.assert_close(sparsifier.fold()(x), before)


def test_blocks_that_would_straddle_two_gates_stay_dense():
    model = nn.Sequential(nn.LSTM(16, 10), nn.Linear(4, 8), nn.Linear(8, 3))
    sparsifier = Sparsifier(model, n=4, epochs=1)
    assert sparsifier.skipped["0.weight_ih_l0"] == "10 outputs of each of its 4 gates do not divide into blocks of 4"
    assert list(sparsifier.masks) == ["1"]
    rows = {row.name: (row.type, row.n) for row in sparsifier.summary()}
    assert rows["0.weight_hh_l0"] == ("LSTM", None) and rows["1"] == ("Linear", 4)


def test_one_of_a_layers_matrices_can_be_excluded():
    model = Reader(nn.LSTM)
    assert list(Sparsifier(model, n=4, epochs=1, exclude=["*.weight_ih_*"]).masks) == ["rnn.weight_hh_l0"]
