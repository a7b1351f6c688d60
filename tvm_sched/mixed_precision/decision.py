"""`precision="auto"`: what a network is computed in, by the estimates.

decision = decide(network, calibration, example, compilation)
decision.precision   # a word's, as `compile` takes it: float32, float16, or int8 but for sites that are not worth it
decision.told        # why, in a line
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch.export import ExportedProgram

from subp_quantizer.sites import Kind, Site, found
from tvm_sched import precision as precisions
from tvm_sched.frontend import calibration as calibrating
from tvm_sched.kernels.integer.dots import weight_bits
from tvm_sched.mixed_precision.costs import Cycles, layer_cycles, site_costs, size, values_of
from tvm_sched.mixed_precision.cut import Cost, cycles, in_8_bits
from tvm_sched.pipeline import Compilation
from tvm_sched.precision import FLOAT32, INT8, Precision

MARGIN = 0.03  # by which a network in two precisions must be the faster by estimate: it is never worth noise
DOUBT = (
    0.15  # of a layer's estimate in either precision, by which the other one must be better to take it out of its own
)
Example = tuple[tuple, Mapping[str, Any]]  # (args, kwargs)


@dataclass(frozen=True)
class Decision:
    """What a network is computed in, and why."""

    precision: Precision
    told: str


def decide(
    network: torch.nn.Module | ExportedProgram,
    batches: Sequence[Any] | None,
    example: Example,
    compilation: Compilation,
) -> Decision:
    """The precision, or the two, in which the network takes the fewest cycles by the kernels' estimates.

    batches:      calibration data, without which 8 bits are no choice; as `quantize` takes it
    compilation:  as for float32
    Raises UserError as `quantize` does.
    """
    if isinstance(network, ExportedProgram) and calibrating.is_quantised(network):
        return Decision(INT8, "auto: int8, as the network is quantised already")
    program = calibrating.float_program(network, example)
    float32 = layer_cycles(program, example, compilation)
    choices = [(sum(float32.values()), FLOAT32, "float32")]
    if compilation.target.half:
        half = precisions.of("float16", compilation.target)
        choices.append((total_of(program, example, replace(compilation, precision=half)), half, "float16"))
    sites = list(found(program.module(check_guards=False).graph))
    if batches is None or not any(site.kind is Kind.LAYER for site in sites):
        return told(choices, "" if batches else "; int8 takes calibration data")
    first = list(islice(calibrating.numbered(batches), 1))
    bits = weight_bits(compilation.target)
    quantised = calibrating.calibrated(program, first, example, weight_bits=bits)
    int8 = layer_cycles(quantised, example, compilation)
    return told(choices[1:] + divided(program, sites, int8, float32, example, compilation), "")


def total_of(program: ExportedProgram, example: Example, compilation: Compilation) -> float:
    """Cycles of all layers."""
    return sum(layer_cycles(program, example, compilation).values())


def divided(
    program: ExportedProgram,
    sites: Sequence[Site],
    int8: Cycles,
    float32: Cycles,
    example: Example,
    compilation: Compilation,
) -> list[tuple[float, Precision, str]]:
    """The network in float32, in 8 bits, and in both where that is faster by more than noise: cycles, what it is
    compiled in, and words for it.
    """
    graph, target, share = sites[0].head.graph, compilation.target, share_of(program, example)
    costs = dict(enumerate(site_costs(sites, int8, float32, share, target)))
    values = values_of(graph, sites, share, target)
    every = set(costs)
    bits = weight_bits(target)
    choices = [
        (cycles(costs, values, set()), FLOAT32, "float32"),
        (cycles(costs, values, every), precisions.int8(bits), "int8"),
    ]
    best = in_8_bits(doubted(costs, choices[0][0] < choices[1][0]), values)
    layers = {number for number, site in enumerate(sites) if site.kind is Kind.LAYER}
    mixed = cycles(costs, values, best)
    if 0 < len(best & layers) < len(layers) and mixed < (1 - MARGIN) * min(choice[0] for choice in choices):
        wide = frozenset(sites[number].head.name for number in every - best)
        words = f"int8 in {len(best & layers)} of {len(layers)} layers, float32 in the others"
        choices.append((mixed, precisions.int8(bits, wide), words))
    return choices


def doubted(costs: Mapping[int, Cost], wide: bool) -> dict[int, Cost]:
    """The costs with DOUBT added to what the whole network is not in by choice; `wide`: that choice is float32."""
    more = 1 + DOUBT
    each = costs.items()
    return {
        at: Cost(cost.int8 * more, cost.float32) if wide else Cost(cost.int8, cost.float32 * more) for at, cost in each
    }


def share_of(program: ExportedProgram, example: Example) -> float:
    """The example's batch, of that for which a program with an open one was traced."""
    traced = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    open_sizes = [value.shape[0] for value in traced if isinstance(value, torch.Tensor) and value.ndim]
    hints = [size(extent) for extent in open_sizes if not isinstance(extent, int)]
    given = [leaf for leaf in torch.utils._pytree.tree_leaves(example) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    return len(given[0]) / hints[0] if hints else 1.0


def told(choices: Sequence[tuple[float, Precision, str]], why: str) -> Decision:
    """The choice of fewest cycles, beside the others."""
    first, *others = sorted(choices, key=lambda choice: choice[0])
    beside = ", ".join(f"{words} {each / 1e6:.2f}" for each, _, words in others)
    beside = f" ({beside})" if beside else ""
    return Decision(first[1], f"auto: {first[2]}, {first[0] / 1e6:.2f} million cycles by estimate{beside}{why}")
