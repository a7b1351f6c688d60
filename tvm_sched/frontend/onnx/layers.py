"""Nodes with weights of the file as PyTorch's own layers: nn.Conv1d to Conv3d, nn.Linear, nn.LSTM, nn.GRU, nn.RNN. So
whatever looks at a network's layers finds them, with names.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tvm_sched.frontend.onnx.operators.recurrent import DEFAULTS, GATES, directions, in_layout
from tvm_sched.frontend.onnx.operators.registry import Node
from tvm_sched.frontend.onnx.operators.windows import Windows

Inputs = Sequence[Tensor | None]  # of a node, None where one is computed by the network, or left out
CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


class Padded(nn.Conv2d):
    """A convolution padded differently before and after."""

    windows: Windows

    def forward(self, x: Tensor) -> Tensor:
        """As of nn.Conv2d."""
        return super().forward(self.windows.pad(x))


def convolution(node: Node, extents: torch.Size, inputs: Inputs) -> nn.Module | None:
    """A Conv of constant weight and bias."""
    _, weight, bias = inputs
    if weight is None or weight.ndim - 2 not in CONVOLUTIONS:
        return None
    windows = Windows.of(node, tuple(extents[2:]), tuple(weight.shape[2:]))
    groups = node["group"]
    kind, padding = CONVOLUTIONS[weight.ndim - 2], windows.before
    if not windows.symmetric:
        if weight.ndim != 4:
            return None
        kind, padding = Padded, (0, 0)
    layer = on_meta(
        kind,
        weight.shape[1] * groups,
        len(weight),
        windows.kernel,
        windows.strides,
        padding,
        windows.dilations,
        groups,
        bias is not None,
    )
    if isinstance(layer, Padded):
        layer.windows = windows
    return holding(layer, weight=weight, bias=bias)


def product(node: Node, extents: torch.Size, inputs: Inputs) -> nn.Module | None:
    """A MatMul by a constant matrix."""
    _, weight = inputs
    if weight is None or weight.ndim != 2:
        return None
    return linear(weight.t(), None)


def gemm(node: Node, extents: torch.Size, inputs: Inputs) -> nn.Module | None:
    """A Gemm by a constant matrix, plus a constant vector or nothing."""
    _, weight, bias = inputs
    if weight is None or node["transA"]:
        return None
    weight = weight if node["transB"] else weight.t()
    if bias is not None:
        if bias.numel() not in (1, len(weight)) or bias.numel() != (bias.shape[-1] if bias.ndim else 1):
            return None
        bias = bias.reshape(-1).expand(len(weight)) * node["beta"]
    return linear(weight if node["alpha"] == 1 else weight * node["alpha"], bias)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """x weight^T + bias."""
    layer = on_meta(nn.Linear, weight.shape[1], weight.shape[0], bias is not None)
    return holding(layer, weight=weight, bias=bias)


class Recurrent(nn.Module):
    """Of nn.LSTM, nn.GRU and nn.RNN what makes ONNX's node of them."""

    node: Node
    backwards: bool

    def forward(self, x: Tensor, *initial: Tensor | None) -> tuple[Tensor, ...]:
        """(Y, Y_h[, Y_c]) as ONNX has them; `initial`: states [directions, B, H]."""
        if self.node["layout"]:
            x, initial = x.transpose(0, 1), tuple(each if each is None else each.transpose(0, 1) for each in initial)
        x = x.flip(0) if self.backwards else x
        zeros = x.new_zeros(self.directions, x.shape[1], self.hidden_size)
        states = tuple(zeros if each is None else each for each in initial) or (zeros,) * self.states
        y, last = super().forward(x, states if self.states == 2 else states[0])
        y = y.unflatten(2, (self.directions, self.hidden_size)).transpose(1, 2)
        y = y.flip(0) if self.backwards else y
        return in_layout(self.node, y, last if self.states == 2 else (last,))

    @property
    def directions(self) -> int:
        """1, or 2 of a bidirectional layer."""
        return 2 if self.bidirectional else 1


class LSTM(Recurrent, nn.LSTM):
    """An LSTM with ONNX's shapes."""

    states = 2


class GRU(Recurrent, nn.GRU):
    """A GRU with ONNX's shapes."""

    states = 1


class RNN(Recurrent, nn.RNN):
    """An RNN with ONNX's shapes."""

    states = 1


# For each of PyTorch's gates in order, which of ONNX's it is: LSTM i f g o of i o f c; GRU r z n of z r h.
GATE_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
KINDS: dict[str, type[Recurrent]] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


def recurrent(node: Node, extents: torch.Size, inputs: Inputs) -> nn.Module | None:
    """A recurrent node that PyTorch's layers compute: with their activations, on whole sequences."""
    _, w, r, b, lengths, _, _, peepholes = (*inputs, *[None] * 8)[:8]
    if w is None or r is None or peepholes is not None:
        return None
    steps = extents[1 if node["layout"] else 0]
    names = [name.capitalize() for name in node["activations"] or ()]
    nonlinearity = "tanh"
    if node.op == "RNN" and names and set(names) == {"Relu"}:
        nonlinearity, names = "relu", []
    if names and names != [*DEFAULTS[node.op]] * len(directions(node)):
        return None
    if node["clip"] or node["input_forget"] or (node.op == "GRU" and not node["linear_before_reset"]):
        return None
    if lengths is not None and set(lengths.tolist()) != {steps}:
        return None
    own = {"nonlinearity": nonlinearity} if node.op == "RNN" else {}
    layer = on_meta(KINDS[node.op], w.shape[2], r.shape[2], bias=b is not None, bidirectional=len(w) == 2, **own)
    layer.node, layer.backwards = node, directions(node) == [True]
    tensors: dict[str, Tensor | None] = {}
    for number, suffix in enumerate(("", "_reverse")[: len(w)]):
        biases = (None, None) if b is None else b[number].chunk(2)
        for name, value in zip(
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), (w[number], r[number], *biases), strict=True
        ):
            tensors[f"{name}_l0{suffix}"] = None if value is None else reordered(value, GATE_ORDER[node.op])
    return holding(layer, **tensors)


def reordered(stacked: Tensor, order: Sequence[int]) -> Tensor:
    """Gates stacked along the first axis, in another order."""
    gates = stacked.chunk(len(order))
    return torch.cat([gates[number] for number in order])


def layer_name(weight: str, node: str) -> str:
    """The name of a layer: its weight's without '.weight' where the exporter kept PyTorch's names, else its node's."""
    return weight.removesuffix(".weight") if weight.endswith(".weight") else node or weight


def on_meta(kind: Callable[..., nn.Module], *args, **kwargs) -> nn.Module:
    """A layer whose parameters hold nothing yet: initialising them would cost time, and draw random numbers."""
    with torch.device("meta"):
        return kind(*args, **kwargs)


def holding(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The layer with these parameters."""
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(layer, name, nn.Parameter(tensor.contiguous(), requires_grad=False))
    return layer


# Operator -> (what makes the layer, its inputs that are computed at each call; the others are its weights).
LAYERS: dict[str, tuple[Callable[[Node, torch.Size, Inputs], nn.Module | None], tuple[int, ...]]] = {
    "Conv": (convolution, (0,)),
    "Gemm": (gemm, (0,)),
    "MatMul": (product, (0,)),
    **dict.fromkeys(GATES, (recurrent, (0, 5, 6))),
}
