"""RNN, GRU and LSTM step by step, for what PyTorch's own do not have: other activations, peepholes, a clip, lengths, a
GRU's reset before the product. Names as in ONNX's formulas: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_sched.frontend.onnx.operators.registry import Node, Numbers, operator

ACTIVATIONS: dict[str, Callable[[Tensor, float | None, float | None], Tensor]] = {
    "Relu": lambda x, a, b: torch.relu(x),
    "Tanh": lambda x, a, b: torch.tanh(x),
    "Sigmoid": lambda x, a, b: torch.sigmoid(x),
    "Affine": lambda x, a, b: (1.0 if a is None else a) * x + (b or 0.0),
    "LeakyRelu": lambda x, a, b: F.leaky_relu(x, 0.01 if a is None else a),
    "ThresholdedRelu": lambda x, a, b: torch.where(x > (1.0 if a is None else a), x, torch.zeros_like(x)),
    "ScaledTanh": lambda x, a, b: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
    "HardSigmoid": lambda x, a, b: torch.clamp((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
    "Elu": lambda x, a, b: F.elu(x, 1.0 if a is None else a),
    "Softsign": lambda x, a, b: F.softsign(x),
    "Softplus": lambda x, a, b: F.softplus(x),
}
PARAMETRIC = {"Affine": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "ScaledTanh": 2, "HardSigmoid": 2, "Elu": 1}
DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

Activation = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]


def directions(node: Node) -> list[bool]:
    """Of each direction, whether it runs backwards."""
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[node["direction"] or "forward"]


def activations(node: Node) -> list[list[Activation]]:
    """Those of each direction, with their parameters."""
    default = DEFAULTS[node.op]
    names = node["activations"] or [*default] * len(directions(node))
    alphas, betas = list(node["activation_alpha"] or []), list(node["activation_beta"] or [])
    found = []
    for number, name in enumerate(names):
        name = next(known for known in ACTIVATIONS if known.lower() == name.lower())
        a = alphas.pop(0) if PARAMETRIC.get(name, 0) >= 1 and alphas else None
        b = betas.pop(0) if PARAMETRIC.get(name, 0) >= 2 and betas else None
        of_cell = node.op == "LSTM" and number % 3 == 2  # which is not clipped, only the gates are
        limit = None if of_cell else node["clip"] or None
        found.append(partial(activated, function=ACTIVATIONS[name], a=a, b=b, limit=limit))
    return [found[start : start + len(default)] for start in range(0, len(found), len(default))]


def activated(x: Tensor, function: Callable, a: float | None, b: float | None, limit: float | None) -> Tensor:
    """An activation of x within [-limit, limit]."""
    return function(x if limit is None else x.clamp(-limit, limit), a, b)


def rnn_step(node: Node, sums: Tensor, state: State, r: Tensor, bias: Tensor, _p, f: Sequence[Activation]) -> State:
    """(H,) after a step; `sums` hold the input's product and its bias."""
    return (f[0](sums + state[0] @ r.t() + bias),)


def gru_step(node: Node, sums: Tensor, state: State, r: Tensor, bias: Tensor, _p, f: Sequence[Activation]) -> State:
    """(H,) after a step."""
    (h,) = state
    (r_z, r_r, r_h), (b_z, b_r, b_h), (x_z, x_r, x_h) = r.chunk(3), bias.chunk(3), sums.chunk(3, 1)
    z, reset = f[0](x_z + h @ r_z.t() + b_z), f[0](x_r + h @ r_r.t() + b_r)
    hidden = reset * (h @ r_h.t() + b_h) if node["linear_before_reset"] else (reset * h) @ r_h.t() + b_h
    return ((1 - z) * f[1](x_h + hidden) + z * h,)


def lstm_step(
    node: Node, sums: Tensor, state: State, r: Tensor, bias: Tensor, p: Tensor | None, f: Sequence[Activation]
) -> State:
    """(H, C) after a step."""
    h, c = state
    p_i, p_o, p_f = (0.0, 0.0, 0.0) if p is None else p.chunk(3)
    x_i, x_o, x_f, x_c = (sums + h @ r.t() + bias).chunk(4, 1)
    i = f[0](x_i + p_i * c)
    forget = 1 - i if node["input_forget"] else f[0](x_f + p_f * c)
    c = forget * c + i * f[1](x_c)
    return f[0](x_o + p_o * c) * f[2](c), c


STEPS = {"RNN": rnn_step, "GRU": gru_step, "LSTM": lstm_step}


@operator("RNN", "GRU", "LSTM", folded=(4,))
def recurrent(
    node: Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | Numbers = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """(Y, Y_h[, Y_c]): outputs of every step `[T, directions, B, H]`, and the last states `[directions, B, H]`."""
    if node["layout"]:
        x = x.transpose(0, 1)
        initial_h, initial_c = (None if each is None else each.transpose(0, 1) for each in (initial_h, initial_c))
    steps, batch, hidden = x.shape[0], x.shape[1], r.shape[2]
    if isinstance(lengths, list):
        lengths = None if set(lengths) == {steps} else torch.tensor(lengths)
    made, last = [], []
    for number, backwards in enumerate(directions(node)):
        initial = [initial_h, initial_c] if node.op == "LSTM" else [initial_h]
        state = tuple(x.new_zeros(batch, hidden) if each is None else each[number] for each in initial)
        bias, hidden_bias = b[number].chunk(2) if b is not None else x.new_zeros(2, GATES[node.op] * hidden).unbind()
        sums = x @ w[number].t() + bias
        outputs: list[Tensor] = [x.new_zeros(batch, hidden)] * steps
        f, peepholes = activations(node)[number], None if p is None else p[number]
        for time in reversed(range(steps)) if backwards else range(steps):
            after = STEPS[node.op](node, sums[time], state, r[number], hidden_bias, peepholes, f)
            if lengths is None:
                state, outputs[time] = after, after[0]
            else:  # beyond a sequence's end its state stays, and the output is 0
                inside = (lengths > time)[:, None]
                state = tuple(torch.where(inside, new, old) for new, old in zip(after, state, strict=True))
                outputs[time] = torch.where(inside, after[0], torch.zeros_like(after[0]))
        made.append(torch.stack(outputs))
        last.append(state)
    y = torch.stack(made, 1)
    states = [torch.stack(each) for each in zip(*last, strict=True)]
    return in_layout(node, y, states)


def in_layout(node: Node, y: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results with the batch first where the node's layout is so."""
    if not node["layout"]:
        return (y, *states)
    return (y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states))
