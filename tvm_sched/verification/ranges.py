"""Numbers too large for half precision: which layers must stay in float32, found before the network is built.

A network is run by PyTorch, operator by operator, on the inputs that it is checked on. What a layer reads, and what is
made of its result up to the next layer, must stay HEADROOM below float16's largest number, since other inputs may make
larger ones. Winograd's transforms add several inputs, MAGNIFIED times the largest of them at most.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, fx
from torch.export import ExportedProgram

from tvm_sched.frontend.aten.source_place import operator
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.plan import NO_WINOGRAD, Restrictions
from tvm_sched.verification.core import values
from tvm_sched.verification.rounding import layers_of

LARGEST = float(np.finfo("float16").max)
HEADROOM = 4
MAGNIFIED = 26.5  # the square of 3 + 3 sqrt(1/2), the numbers of a row of F(4,3)'s transform, more than F(2,3)'s
NORMS = ("_native_batch_norm_legit_no_training", "native_batch_norm")  # are folded into the layer before


@dataclass(frozen=True)
class Reach:
    """How large a layer's numbers get: of what it reads, and of what is made of its result before the next layer."""

    read: float = 0.0
    made: float = 0.0

    @property
    def largest(self) -> float:
        """Of both."""
        return max(self.read, self.made)

    def joined(self, other: "Reach") -> "Reach":
        """That of two runs."""
        return Reach(max(self.read, other.read), max(self.made, other.made))


def in_range(compilation: Compilation, core: ExportedProgram, cases: Sequence[Sequence[np.ndarray]]) -> Compilation:
    """The compilation with what is too large for half precision kept in float32, and what would be so in Winograd's
    transforms without these. `cases`: inputs of the program in core operators.
    """
    found: dict[str, Reach] = {}
    for inputs in cases:
        for name, reach in reaches(core, inputs).items():
            found[name] = reach.joined(found.get(name, Reach()))
    wide = {name: told(reach) for name, reach in found.items() if reach.largest > LARGEST / HEADROOM}
    near = {name for name, reach in found.items() if reach.largest > LARGEST / HEADROOM / MAGNIFIED} - wide.keys()
    now = compilation.restrictions
    why = "its transforms might exceed float16's largest number"
    layers = {**now.layers, **{name: replace(NO_WINOGRAD, why=why) for name in near}}
    return replace(compilation, wide=wide, restrictions=Restrictions(now.default, layers))


def told(reach: Reach) -> str:
    """Why a layer stays in float32."""
    what = "reads numbers" if reach.read >= reach.made else "makes numbers"
    return f"in float32: it {what} of {reach.largest:.2g}, too near float16's largest of {LARGEST:.0f}"


def reaches(core: ExportedProgram, inputs: Sequence[np.ndarray]) -> Mapping[str, Reach]:
    """By layer, how large its numbers get for these inputs; nothing where PyTorch cannot run the program so."""
    try:
        known = values(core, inputs)
    except Exception:  # of any kind, as operators' own code runs
        return {}
    layers = layers_of(core)
    found: dict[str, Reach] = {}
    for node, name in layers.items():
        read = max((size(known.get(each)) for each in node.all_input_nodes), default=0.0)
        made = max((size(known.get(each)) for each in region(node, layers)), default=0.0)
        found[name] = Reach(read, made).joined(found.get(name, Reach()))
    return found


def region(layer: fx.Node, layers: Mapping[fx.Node, str]) -> Iterator[fx.Node]:
    """The values that are made of a layer's result before another layer reads them, its own among them unless it is
    only normalised.
    """
    if not layer.users or not all(operator(user) in NORMS for user in layer.users):
        yield layer
    waiting, met = list(layer.users), set()
    while waiting:
        node = waiting.pop()
        if node not in met and node not in layers:
            met.add(node)
            waiting += node.users
            yield node


def size(value: object) -> float:
    """The largest finite number of a tensor of fractions; 0 of anything else."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
        return 0.0
    finite = value.detach().abs().nan_to_num(nan=0.0, posinf=0.0)
    return float(finite.max())
