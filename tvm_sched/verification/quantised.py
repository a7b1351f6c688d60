"""How far the outputs of a quantised network may be from PyTorch's, though both are right.

A sum that lies halfway between two steps of a quantisation is rounded to either, as the order of its additions has it;
what reads it is then a fraction of a step further, and so on through the layers. So two runs of one network, both
right, have numbers that differ by a step or two in whatever is quantised last, here and there and in either direction.
An output may differ by as much as it does by PyTorch where each of these numbers is moved by two steps, up or down at
random. What comes before needs no account of its own: it shows in these numbers, or not at all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tvm_sched.frontend.aten.program import DEQUANTISED, operator, user_outputs
from tvm_sched.verification.core import Interpreter
from tvm_sched.verification.reference import own_tensor

STEPS = 2
SEEDS = (0, 1)  # of the signs
QUANTISED = {"quantize_per_tensor", "quantize_per_channel", "quantize_linear"}


def allowances(core: ExportedProgram, inputs: Sequence[np.ndarray]) -> list[float]:
    """Of each output, what rounding may change it by; 0 where nothing is quantised on the way to it.

    inputs: of the program, which is in core operators
    """
    return [allowance(core, node, inputs) for node in user_outputs(core)]


def allowance(core: ExportedProgram, node: fx.Node, inputs: Sequence[np.ndarray]) -> float:
    """The same of any node's value."""
    last = last_quantised(core, node)
    if not last:
        return 0.0
    if not node.meta["val"].is_floating_point():  # numbers of 8 bits themselves, or what is compared of them
        return float(STEPS) if node.meta["val"].dtype in (torch.int8, torch.uint8) else 0.0
    tensors = list(map(own_tensor, inputs))
    with torch.no_grad():
        value = Interpreter(core).run_on(tensors)[node]
        moved = [_Moved(core, last, seed).run_on(tensors)[node] for seed in SEEDS]
    changes = [(each - value).abs().nan_to_num(0.0, 0.0, 0.0) for each in moved]
    return max((float(each.max()) for each in changes if each.numel()), default=0.0)


def last_quantised(core: ExportedProgram, node: fx.Node) -> set[fx.Node]:
    """The dequantised values that the node's is computed of without being quantised again on the way, or where it is in
    8 bits itself, what quantises it. Weights are not among them.
    """
    given = {spec.arg.name for spec in core.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    computed: set[fx.Node] = set()
    for each in core.graph.nodes:
        if each.name in given or any(source in computed for source in each.all_input_nodes):
            computed.add(each)
    found, seen, waiting = set(), set(), [node]
    while waiting:
        each = waiting.pop()
        if each in seen or each not in computed:
            continue
        seen.add(each)
        if operator(each) in DEQUANTISED | QUANTISED:
            found.add(each)
        else:
            waiting += each.all_input_nodes
    return found


class _Moved(Interpreter):
    """Moves dequantised values by so many steps, up or down."""

    def __init__(self, core: ExportedProgram, moved: set[fx.Node], seed: int):
        super().__init__(core)
        self.moved, self.generator = moved, torch.Generator().manual_seed(seed)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.moved and value.is_floating_point():
            signs = torch.randint(0, 2, value.shape, generator=self.generator) * 2 - 1
            value = self.values[n] = value + STEPS * signs * self.step(n, value)
        return value

    def step(self, n: fx.Node, value: Tensor) -> Tensor:
        """The scale of a dequantisation, as it broadcasts to its value."""
        (_, scale, _, *more), _ = self.fetch_args_kwargs_from_env(n)
        scale = torch.as_tensor(scale, dtype=value.dtype)
        if operator(n) != "dequantize_per_channel":
            return scale.reshape(())
        return scale.reshape(-1, *[1] * (value.ndim - 1 - int(more[0]) % value.ndim))
