"""Recurrent layers, unrolled into products: against PyTorch's own LSTM, GRU and RNN, dense and block-sparse."""

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from subp import Sparsifier
from subp_contract.errors import UserError
from tvm_sched.frontend import torch_export
from tvm_sched.frontend.aten import CONVERTERS
from tvm_sched.frontend.aten.source_place import operator
from tvm_sched.frontend.decompositions import recurrent
from tvm_sched.frontend.decompositions.table import decomposed

STEPS, INPUTS, HIDDEN = 3, 6, 8


class Reader(nn.Module):
    """Returns the outputs of all steps and the last states; with `initial` the first states are not zeros."""

    def __init__(self, kind, initial=False, **options):
        super().__init__()
        self.rnn, self.initial = kind(INPUTS, HIDDEN, **options), initial

    def forward(self, x):
        return flat(self.rnn(x, self.states(x)) if self.initial else self.rnn(x))

    def states(self, x):
        batch = x.shape[0 if self.rnn.batch_first else 1]
        count = self.rnn.num_layers * (1 + self.rnn.bidirectional)
        h = x[:1, :1, :1] + torch.linspace(-1, 1, count * batch * (self.rnn.proj_size or HIDDEN)).view(count, batch, -1)
        return (
            (h, torch.linspace(-1, 1, count * batch * HIDDEN).view(count, batch, -1))
            if isinstance(self.rnn, nn.LSTM)
            else h
        )


class Classifier(nn.Module):
    """Of the last step's output."""

    def __init__(self, kind, hidden, **options):
        super().__init__()
        self.rnn = kind(16, hidden, batch_first=True, **options)
        self.head = nn.Linear(hidden, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def flat(result):
    """(output, h_n) or (output, h_n, c_n)."""
    output, states = result
    return (output, *states) if isinstance(states, tuple) else (output, states)


DEEP = {"num_layers": 2, "bidirectional": True}


@pytest.mark.parametrize(
    ("kind", "batch", "options"),
    [
        (nn.LSTM, 1, {}),
        (nn.LSTM, 3, DEEP | {"batch_first": True}),
        (nn.LSTM, 3, DEEP | {"bias": False, "initial": True}),
        (nn.LSTM, 1, DEEP | {"proj_size": 4, "initial": True}),
        (nn.LSTM, 3, {"proj_size": 4, "bias": False}),
        (nn.GRU, 1, {}),
        (nn.GRU, 3, DEEP | {"batch_first": True, "initial": True}),
        (nn.GRU, 1, {"bias": False}),
        (nn.RNN, 3, DEEP | {"initial": True}),
        (nn.RNN, 1, {"nonlinearity": "relu", "batch_first": True}),
        (nn.RNN, 3, {"nonlinearity": "relu", "bias": False}),
    ],
)
def test_unrolled_layers_compute_what_pytorchs_do(kind, batch, options):
    torch.manual_seed(0)
    network = Reader(kind, **options).eval()
    x = torch.randn((batch, STEPS, INPUTS) if options.get("batch_first") else (STEPS, batch, INPUTS))
    program = decomposed(torch_export.export(network, x), CONVERTERS)
    assert not {"lstm", "gru", "rnn_tanh", "rnn_relu"} & {operator(node) for node in program.graph.nodes}
    with torch.no_grad():
        expected = network(x)
        for got, want in zip(program.module()(x), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options"), [(nn.LSTM, DEEP | {"proj_size": 4}), (nn.GRU, {"batch_first": True}), (nn.RNN, {})]
)
def test_compiled_layers_compute_what_pytorchs_do(kind, options):
    torch.manual_seed(0)
    network = Reader(kind, initial=True, **options).eval()
    x = torch.randn(2, STEPS, INPUTS)
    with torch.no_grad():
        expected = network(x)
    for got, want in zip(tvm_sched.compile(network, x, threads=1)(x.numpy()), expected, strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


def test_a_pruned_lstm_runs_block_sparse_its_weights_stored_once():
    torch.manual_seed(0)
    network = Classifier(nn.LSTM, 16, num_layers=2)  # all four matrices of one size
    sparsifier = Sparsifier(network, n=16, sparsity=0.75, epochs=2)
    sparsifier.step(1)
    network, x = sparsifier.fold().eval(), torch.randn(1, STEPS, 16)
    artifact = tvm_sched.compile(network, x, threads=1)
    with torch.no_grad():
        np.testing.assert_allclose(artifact(x.numpy()), network(x).numpy(), rtol=0, atol=1e-5)
    rows = artifact.explain()
    matrices = ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1", "rnn.weight_hh_l1"]
    assert list(dict.fromkeys(row.name for row in rows)) == [*matrices, "head"]
    for name in matrices:
        own = [row for row in rows if row.name == name]
        assert len(own) == (1 if "ih" in name else STEPS - 1)  # of the first step's state, zeros, nothing is computed
        assert len({(row.function, row.call) for row in own}) == len(own)
        assert {(row.n, row.kept, row.total) for row in own} == {(16, 4, 16)}
        assert sum(row.weights for row in own) == 4 * 16 * 16 / 4
    assert artifact.explain_table().row_count == 5


def test_too_many_steps_are_refused(monkeypatch):
    monkeypatch.setattr(recurrent, "MOST_STEPS", 5)
    network = Reader(nn.GRU, num_layers=2)
    with pytest.raises(UserError, match=r"module takes 6 steps \(3 in each of its layers and directions\); .* up to 5"):
        torch_export.from_torch(network, torch.zeros(STEPS, 1, INPUTS))
