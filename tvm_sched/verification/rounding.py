"""Winograd's rounding, and that of weights of 16 bits: which layers' errors the outputs show, and which of them must
round less.

An error e in a layer's result z adds J e to the outputs y, J = dy/dz. Of noise that is r times as large as z (root mean
square) an output's error is, by root mean square over noise and outputs,

    r * rms(z) * ||J||_F / sqrt(numbers of y),   ||J||_F^2 = E ||J^T v||^2 for random signs v (Hutchinson)

so one run of the network backwards tells it for all layers. Errors of different layers add up as squares.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tvm_sched.deploy.manifest import TOLERANCE, error_limit, relative_of
from tvm_sched.frontend.aten.program import WEIGHT_AT, name_of, operator, source, user_outputs
from tvm_sched.frontend.torch_export import to_array
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.planning.plan import NO_WINOGRAD, Restriction, Restrictions
from tvm_sched.verification.core import Interpreter, placeholder_values
from tvm_sched.verification.reference import own_tensor

# Relative error of the direct kernel's sums of some thousand products, root mean square: bfloat16's is its numbers'.
DIRECT = {"float16": 1e-3, "bfloat16": 2.4e-3}
DIRECT_SINGLE = 1e-6  # the same in float32
LARGEST = 4  # of a thousand normal numbers, in root mean squares
DOUBT = 30  # how many times less than the truth the estimate may be
AIM = 0.5  # of the limit: what the error shall be by estimate
NEARLY = 1.1  # where that cannot be reached: times the least square of the error that can be
WINOGRAD = "winograd"  # begins the names of its forms
WIDE = Restriction(
    most_rounding=5.0, why="the outputs would show the rounding of its weights (checked against PyTorch)"
)
FINE = Restriction(most_rounding=1.0, why="the outputs would show its rounding (checked against PyTorch)")


def finer(
    choices: Sequence[LayerChoice],
    now: Restrictions,
    core: ExportedProgram,
    inputs: Sequence[np.ndarray],
    excess: float,
    precision: str = "float32",
) -> Restrictions | None:
    """Restrictions by which the network rounds less, the layers that matter most first; None where no layer is left
    that could, or where rounding is not what departs.

    choices: what the layers run with;  now: restricted by these;  inputs: of the program in core operators
    excess: the outputs' largest error, in multiples of its limit;  precision: of the network
    """
    # Rounded weights are the first to go: they matter more than how exactly they are multiplied.
    most = WIDE if any(choice.rounding > WIDE.most_rounding for choice in choices) else FINE
    coarse = {choice.name: choice.rounding for choice in choices if choice.rounding > most.most_rounding}
    if not coarse:
        return None
    shown = shown_by_layer(core, inputs)
    if shown is None:  # nothing is known: all of them
        return restricted(now, coarse, most)
    squares = {choice.name: (choice.rounding * shown.get(choice.name, 0.0)) ** 2 for choice in choices}
    total = sum(squares.values())
    error = excess * (relative_of(precision, choices) or TOLERANCE)
    if not total or not by_rounding(error, total, precision):
        return None
    saved = {name: squares[name] * (1 - (most.most_rounding / coarse[name]) ** 2) for name in coarse}
    enough = max(total * (AIM / excess) ** 2, NEARLY * (total - sum(saved.values())))
    chosen = []
    for name in sorted(saved, key=lambda name: -saved[name]):
        if total <= enough:
            break
        chosen.append(name)
        total -= saved[name]
    return restricted(now, chosen, most) if chosen else None


def by_rounding(error: float, total: float, precision: str) -> bool:
    """Whether rounding may be what makes outputs depart by this share of the largest. `total`: of the squares of what
    layers show, in multiples of a direct kernel's rounding.
    """
    return error <= DOUBT * LARGEST * DIRECT.get(precision, DIRECT_SINGLE) * sqrt(total)


def all_direct(choices: Sequence[LayerChoice], excess: float) -> Restrictions | None:
    """Restrictions by which no layer runs by Winograd's algorithm, nor with rounded weights, the last thing to try:
    what `finer` estimates is of first order, and too little in a network that magnifies rounding much. None where no
    layer does.
    """
    used = any(choice.kernel.startswith(WINOGRAD) or choice.narrow_weights for choice in choices)
    direct = replace(NO_WINOGRAD, most_rounding=FINE.most_rounding, why=FINE.why)
    return Restrictions(direct) if used and np.isfinite(excess) else None


def restricted(now: Restrictions, names: Iterable[str], most: Restriction) -> Restrictions:
    """The same, and `most` for the layers of these names."""
    return Restrictions(now.default, {**now.layers, **dict.fromkeys(names, most)})


def shown_by_layer(core: ExportedProgram, inputs: Sequence[np.ndarray]) -> dict[str, float] | None:
    """By layer, the outputs' error in multiples of error_limit / TOLERANCE for noise as large as the layer's result;
    both by root mean square. None where PyTorch cannot run the network backwards.
    """
    layers = layers_of(core)
    try:
        recorder = _Differentiable(core, layers)
        recorder.run_on([own_tensor(x) for x in inputs])
        results = {node: recorder.values[node] for node in layers if recorder.values[node].requires_grad}
        outputs = [value for node in user_outputs(core) if (value := recorder.values[node]).requires_grad]
        generator = torch.Generator().manual_seed(0)
        signs = [torch.randint(0, 2, y.shape, generator=generator) * 2.0 - 1 for y in outputs]
        loss = sum((v * y / scale_of(y)).sum() for v, y in zip(signs, outputs, strict=True))
        gradients = torch.autograd.grad(loss, list(results.values()), allow_unused=True)
    except Exception:  # of any kind: an operator without a derivative, or outputs that are no fractions
        return None
    numbers = sum(y.numel() for y in outputs)
    found: dict[str, float] = {}
    for (node, z), gradient in zip(results.items(), gradients, strict=True):
        if gradient is not None:
            shown = float(rms(z.detach()) * gradient.norm() / sqrt(numbers))
            found[layers[node]] = sqrt(found.get(layers[node], 0.0) ** 2 + shown**2)
    return found


class _Differentiable(Interpreter):
    """Records the graph of derivatives from the layers on."""

    def __init__(self, core: ExportedProgram, layers: Mapping[fx.Node, str]):
        super().__init__(core)
        self.layers = layers

    def run_on(self, tensors: Sequence[Tensor]) -> dict[fx.Node, Any]:
        """As the base's, parameters being constants."""
        given = placeholder_values(self.core, iter(tensors))
        self.run(*(each.detach() if isinstance(each, Tensor) else each for each in given))
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.layers and not value.requires_grad:
            value.requires_grad_()
        return value


def layers_of(core: ExportedProgram) -> dict[fx.Node, str]:
    """The nodes that compute layers, and the layers' names."""
    nodes = [node for node in core.graph.nodes if operator(node) in WEIGHT_AT]
    return {node: name_of(source(node.args[WEIGHT_AT[operator(node)]]), node, core) for node in nodes}


def scale_of(y: Tensor) -> float:
    """What errors of an output are measured in."""
    return error_limit(to_array(y)) / TOLERANCE


def rms(z: Tensor) -> Tensor:
    """Root mean square."""
    return z.square().mean().sqrt()
