"""From an exported float32 network to a program with quantise/dequantise pairs, by way of a module with observers (for
calibration) or fake quantisation (for training).
"""

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from subp_contract.errors import UserError
from subp_quantizer import WEIGHT_BITS
from subp_quantizer.quantizer import BlockQuantizer
from subp_quantizer.sites import LAYERS, Kind, chosen
from subp_quantizer.torchao_import import conv2d_alone, quantize_pt2e

DEQUANTIZE = "quantized_decomposed::dequantize_per_channel"


def prepared(
    program: ExportedProgram, qat: bool = False, wide: Collection[str] = (), weight_bits: int = max(WEIGHT_BITS)
) -> fx.GraphModule:
    """The program as a module of its own, whose calls observe what is to be quantised; batch norms behind convolutions
    are folded. With `qat` a module to train, of a program that was exported in training mode: it rounds as the
    quantised one will, batch norms learn on, and its gradients pass straight through the rounding. `wide`: names of the
    first operators of sites that stay in float32. `weight_bits`: 8, or 7 for weights of -63 to 63.

    Raises UserError where nothing of the network is computed in 8 bits, and for another number of bits.
    """
    if weight_bits not in WEIGHT_BITS:
        raise UserError(f"weights have 7 or 8 bits, not {weight_bits!r}")
    module = copied(program.module(check_guards=False))
    if not any(choice.site.kind is Kind.LAYER for choice in chosen(module.graph, wide)):
        raise UserError(
            "the network has nothing to quantise: no conv2d and no linear layer whose weight is its own, in float32"
        )
    prepare = quantize_pt2e.prepare_qat_pt2e if qat else quantize_pt2e.prepare_pt2e
    with conv2d_alone():
        return prepare(module, BlockQuantizer(qat, wide, weight_bits))


def converted(
    module: fx.GraphModule, args: tuple, kwargs: Mapping[str, Any] | None = None, dynamic_shapes: Any = None
) -> ExportedProgram:
    """The quantised program of what `prepared` made, with the ranges seen so far, for inputs like these, whose sizes
    are left open as torch.export's `dynamic_shapes` says; the module is left as it is. A layer's weight keeps its name,
    as int8 `[O, ...]`, beside its scales `NAME_scale [O]` and zero points `NAME_zero_point [O]`, all 0.
    """
    module = quantised(in_evaluation(module))
    with torch.no_grad():
        return torch.export.export(module, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes)


def quantised(module: fx.GraphModule) -> fx.GraphModule:
    """The network of a module `in_evaluation`, which it is made of, with weights in int8 and pairs as above; for any
    batch that the module takes.
    """
    names = [weight_name(node) for node in layers(module)]
    with conv2d_alone():
        made = quantize_pt2e.convert_pt2e(module)
    rename_weights(made, names)
    return made


def in_evaluation(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of what `prepared` made, in which nothing is dropped and batch norms use their running statistics. What
    torchao has for it, `move_exported_model_to_eval`, traces for half a second what it looks for, and gives batch norms
    the default eps.
    """
    made = copied(module)
    for node in made.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            evaluate(node)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


def evaluate(node: fx.Node) -> None:
    """Sets an operator's `train` or `training` to False; a norm's only where it has running statistics."""
    given = dict(zip((argument.name for argument in node.target._schema.arguments), node.args, strict=False))
    if given.get("running_mean", ...) is None:
        return
    for place, name in enumerate(given):
        if name in ("train", "training"):
            node.update_arg(place, False)


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """A copy, whose weights are its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of torch.export's own code
        return copy.deepcopy(module)


def layers(module: fx.GraphModule) -> list[fx.Node]:
    """The convolutions and matrix products, in order."""
    return [node for node in module.graph.nodes if node.target in LAYERS]


def weight_name(layer: fx.Node) -> str | None:
    """The parameter that a layer's weight is computed from; None where there is none of its shape."""
    weight = layer.args[1]
    shape, waiting = weight.meta["val"].shape if "val" in weight.meta else None, [weight]
    while waiting:
        node = waiting.pop()
        if node.op == "get_attr":
            value = attribute(node.graph.owning_module, node.target)
            if isinstance(value, torch.Tensor) and shape in (None, value.shape):
                return node.target
        waiting += reversed(node.all_input_nodes)
    return None


def rename_weights(module: fx.GraphModule, names: Sequence[str | None]) -> None:
    """Stores each layer's int8 weight, its scales and zero points under the name of what it was made of, and drops
    what nothing reads any more.
    """
    taken: dict[str, torch.Tensor] = {}
    for layer, name in zip(layers(module), names, strict=True):
        dequantize = layer.args[1]
        if name is None or getattr(dequantize.target, "_schema", None) is None:
            continue
        if dequantize.target._schema.name != DEQUANTIZE or dequantize.args[0].op != "get_attr":
            continue
        weight = attribute(module, dequantize.args[0].target)
        own = name
        while own in taken and not torch.equal(taken[own], weight):  # a weight that is read with several scales
            own += "_"
        taken[own] = weight
        for node, ending in zip(dequantize.args[:3], ("", "_scale", "_zero_point"), strict=True):
            store(module, own + ending, attribute(module, node.target))
            node.target = own + ending
    module.graph.eliminate_dead_code()
    drop_unread(module)
    module.recompile()


def attribute(module: nn.Module, path: str) -> Any:
    """What stands at a dotted path."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def store(module: nn.Module, path: str, value: torch.Tensor) -> None:
    """Puts a buffer at a dotted path, in the place of what stands there."""
    owner, _, name = path.rpartition(".")
    parent = module.get_submodule(owner)
    if hasattr(parent, name):
        delattr(parent, name)
    parent.register_buffer(name, value.detach())


def drop_unread(module: fx.GraphModule) -> None:
    """Drops the parameters and buffers that the graph does not read: float weights, batch norms' statistics."""
    read = {node.target for node in module.graph.nodes if node.op in ("get_attr", "call_module")}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in read:
            owner, _, last = name.rpartition(".")
            delattr(module.get_submodule(owner), last)
    module.delete_all_unused_submodules()
