"""What a network's sites (`subp_quantizer.sites`) cost in 8 bits and in float32, and what their values cost to convert.

Layers cost what the kernels' estimates say; other sites and conversions by the numbers that they move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from subp_quantizer.quantization import weight_name
from subp_quantizer.sites import Site
from tvm_sched import pipeline
from tvm_sched.frontend import torch_export
from tvm_sched.kernels.layer import Layer
from tvm_sched.mixed_precision.cut import Cost, Value
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.plan import Plan, Restriction
from tvm_sched.targets import Target

FLOAT_BYTES, INT8_BYTES = 4, 1
MOVES_NOTHING = {
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "dropout", "alias", "detach", "contiguous", "clone"),
}

Cycles = Mapping[str, float]  # by a layer's name


def layer_cycles(program: ExportedProgram, example: tuple[tuple, Mapping[str, Any]], plain: Compilation) -> Cycles:
    """Estimated cycles of each layer of a program, in the form that it would take for an example (args, kwargs)."""
    found: dict[str, float] = {}
    choose = plain.chosen_by

    def noted(name: str, layer: Layer, target: Target, restriction: Restriction) -> Plan | None:
        plan = choose(name, layer, target, restriction)
        if plan is not None:
            found[name] = plan.cycles
        return plan

    imported = torch_export.from_torch(torch_export.fixed(program, *example))
    pipeline.fused(imported, replace(plain, choose=noted, observe=None))
    return found


def site_costs(sites: Sequence[Site], int8: Cycles, float32: Cycles, share: float, target: Target) -> list[Cost]:
    """Of each site. int8, float32: of the layers of either network; `share`: of what the program was traced for, that a
    call is. A layer that is not in both costs nothing to choose.
    """

    def cost(site: Site) -> Cost:
        if site.weight is None:
            moved = moved_numbers(site) * share / target.costs.moved_bytes_per_cycle / target.cores
            return Cost(INT8_BYTES * moved, FLOAT_BYTES * moved)
        name = layer_name(site)
        known = name in int8 and name in float32
        return Cost(int8[name], float32[name]) if known else Cost(0.0, 0.0)

    return [cost(site) for site in sites]


def values_of(graph: fx.Graph, sites: Sequence[Site], share: float, target: Target) -> list[Value]:
    """What sites make and read, by their numbers; `share` as in `site_costs`. Network inputs are in neither precision:
    the one rounds them, the other transposes.
    """
    maker = {node: number for number, site in enumerate(sites) for node in site.results}
    reader = {(edge.value, edge.reader): number for number, site in enumerate(sites) for edge in site.inputs}
    found = []
    for node in graph.nodes:
        readers = [reader.get((node, user)) for user in node.users]
        if node not in maker and not any(each is not None for each in readers):
            continue
        inside = maker.get(node)
        readers = [each for each in readers if each is None or each != inside]
        cycles = 0.0 if node.op == "placeholder" else numbers(node) * share * target.costs.planes_cycles / target.cores
        found.append(Value(inside, readers, cycles, cycles))
    return found


def layer_name(site: Site) -> str:
    """As the compiler calls the site's layer; empty where its weight has no name."""
    return (weight_name(site.head) or "").removesuffix("weight").rstrip("._")


def moved_numbers(site: Site) -> float:
    """What a site without weights reads and writes."""
    if site.head.target.__name__.partition(".")[0] in MOVES_NOTHING:
        return 0.0
    return sum(numbers(node) for node in [*(edge.value for edge in site.inputs), *site.results])


def numbers(node: fx.Node) -> float:
    """Of a value's tensors, where a size is open those of its trace."""
    held = node.meta.get("val")
    tensors = held if isinstance(held, (tuple, list)) else [held]
    return float(sum(prod(map(size, each.shape)) for each in tensors if isinstance(each, torch.Tensor)))


def size(extent: int | torch.SymInt) -> int:
    """An extent, or that of the trace."""
    return extent if isinstance(extent, int) else int(extent.node.hint)
