"""Recurrent layers as matrix products: nn.LSTM, nn.GRU and nn.RNN over the steps of a sequence of fixed length, one
after another.

Of each layer and direction, with H outputs of each gate (LSTM: i, f, g, o; GRU: r, z, n; RNN: one), for T steps of a
batch of B:

    s = x @ W_ih^T + b_ih            [T B, gates H], one product for all steps
    h_t = step(s_t, h_{t-1} @ W_hh^T + b_hh, ...)     T products of [B, H]

Both multiply by a constant matrix, so they run as linear layers do, block-sparse where the matrix is. Sequences are `[T
B, C]` here, times in order. The formulas of a step are those of PyTorch's documentation of the modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subp_contract.errors import UserError

ATEN = torch.ops.aten
MOST_STEPS = 1000  # of a module's layers and directions together: the passes that follow work on each


@dataclass(frozen=True)
class Weights:
    """Of one layer and direction; the matrices transposed."""

    inputs: Tensor  # [I, gates H]
    hidden: Tensor  # [H, gates H], or [P, gates H] where h is projected to P numbers
    input_bias: Tensor | None  # [gates H]
    hidden_bias: Tensor | None
    projection: Tensor | None  # [H, P]


# (s_t, state (h, ...), weights) -> the next state.
Cell = Callable[[Tensor, Sequence[Tensor], Weights], tuple[Tensor, ...]]


def lstm_step(sums: Tensor, state: Sequence[Tensor], weights: Weights) -> tuple[Tensor, Tensor]:
    """(h, c) of an LSTM. `sums` holds both biases."""
    h, c = state
    i, f, g, o = (sums + torch.mm(h, weights.hidden)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h if weights.projection is None else torch.mm(h, weights.projection), c


def gru_step(sums: Tensor, state: Sequence[Tensor], weights: Weights) -> tuple[Tensor]:
    """(h,) of a GRU, whose reset gate scales the hidden product with its bias."""
    (h,) = state
    hidden = product(h, weights.hidden, weights.hidden_bias)
    (sum_r, sum_z, sum_n), (hidden_r, hidden_z, hidden_n) = sums.chunk(3, 1), hidden.chunk(3, 1)
    n = (sum_n + (sum_r + hidden_r).sigmoid() * hidden_n).tanh()
    return (n + (sum_z + hidden_z).sigmoid() * (h - n),)


def rnn_step(activation: Callable[[Tensor], Tensor]) -> Cell:
    """The step of an RNN with that activation; `sums` holds both biases."""
    return lambda sums, state, weights: (activation(sums + torch.mm(state[0], weights.hidden)),)


def product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ matrix + bias`."""
    return torch.mm(x, matrix) if bias is None else torch.addmm(bias, x, matrix)


def weights_of(params: list[Tensor], has_biases: bool, projected: bool, joined: bool) -> list[Weights]:
    """ATen's list of parameters, by layer and direction. `joined`: the biases are one, added to the inputs' product."""
    size = 2 + 2 * has_biases + projected
    found = []
    for start in range(0, len(params), size):
        matrices = params[start : start + 2] + params[start + size - projected : start + size]
        input_bias, hidden_bias = params[start + 2 : start + 4] if has_biases else (None, None)
        if has_biases and joined:
            input_bias, hidden_bias = input_bias + hidden_bias, None
        inputs, hidden, projection = [*(each.permute(1, 0) for each in matrices), None][:3]
        found.append(Weights(inputs, hidden, input_bias, hidden_bias, projection))
    return found


def unroll(
    step: Cell, x: Tensor, initial: list[Tensor], weights: list[Weights], bidirectional: bool, batch_first: bool
) -> list[Tensor]:
    """[output, h_n, ...] as ATen's recurrent operators give them, from x `[T, B, I]` (`[B, T, I]` with `batch_first`)
    and initial states `[layers directions, B, H]`. Raises UserError where there are more than MOST_STEPS steps.
    """
    times, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    if times * len(weights) > MOST_STEPS:
        raise UserError(
            f"a recurrent module takes {times * len(weights)} steps ({times} in each of its layers and directions); "
            f"this compiler takes modules of up to {MOST_STEPS}: give it a shorter sequence"
        )
    directions = 1 + bidirectional
    sequence = (x.permute(1, 0, 2) if batch_first else x).contiguous().view(times * batch, -1)
    last = []  # states, by layer and direction
    for layer in range(0, len(weights), directions):
        outputs = []
        for direction in range(directions):
            own = weights[layer + direction]
            sums = product(sequence, own.inputs, own.input_bias).split(batch)
            state, made = [each[layer + direction] for each in initial], [None] * times
            for time in reversed(range(times)) if direction else range(times):
                state = step(sums[time], state, own)
                made[time] = state[0]
            outputs.append(torch.cat(made))
            last.append(state)
        sequence = torch.cat(outputs, 1) if bidirectional else outputs[0]
    output = sequence.view(times, batch, -1)
    return [
        output.permute(1, 0, 2) if batch_first else output,
        *(torch.stack(each) for each in zip(*last, strict=True)),
    ]


def lstm(x, initial, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    """aten.lstm.input: (output, h_n, c_n)."""
    projected = initial[0].shape[2] != initial[1].shape[2]
    return tuple(
        unroll(lstm_step, x, initial, weights_of(params, has_biases, projected, True), bidirectional, batch_first)
    )


def single_state(step: Cell, joined: bool):
    """aten.gru.input, aten.rnn_tanh.input or aten.rnn_relu.input: (output, h_n)."""

    def decomposition(x, initial, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
        return tuple(
            unroll(step, x, [initial], weights_of(params, has_biases, False, joined), bidirectional, batch_first)
        )

    return decomposition


UNROLLED = {
    ATEN.lstm.input: lstm,
    ATEN.gru.input: single_state(gru_step, joined=False),
    ATEN.rnn_tanh.input: single_state(rnn_step(torch.tanh), joined=True),
    ATEN.rnn_relu.input: single_state(rnn_step(torch.relu), joined=True),
}
