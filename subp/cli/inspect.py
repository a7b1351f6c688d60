"""`subp inspect`: what a network's layers hold, in a checkpoint, an ONNX file or a compiled file."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.model import load_network, model_options
from subp.cli.options.output import json_option, write_json
from subp.cli.options.types import Numbers
from subp.deployment import networks
from subp_contract.errors import UserError, require

if TYPE_CHECKING:
    from rich.table import Table

    from subp.pruning.summary import LayerSummary

# Of what a compiled file tells of itself, what --json writes.
MANIFEST = ("target", "precision", "weights", "threads", "dense", "inputs", "outputs", "memory", "layers")


@click.command()
@click.argument("model", metavar="MODEL|NET.SO")
@model_options("n", "sparsity", "seed", "size", "code")
@click.option(
    "--threads", type=Numbers(), help="Show how evenly so many threads share each call's work, of a compiled file."
)
@json_option("the layers")
def command(model: str, settings: dict, threads: list[int] | None, json_file: Path | None) -> None:
    """Show the layers of MODEL, or of what `subp compile` wrote: block size, density, uniform or not,
    multiply-accumulates, bytes dense and as BSR; of NET.SO also the kernels.

    With --threads, such as 2,4,8, each call of a compiled network, the steps of its parallel loops, and the busiest
    thread's steps over the mean: 1.00 is equal work, and T is one thread of T at work.
    """
    from subp.cli.options.terminal import show
    from subp.pruning import summary
    from tvm_sched.deploy.manifest import read_manifest

    file = Path(model)
    if threads:
        if file.suffix != ".so":
            raise UserError(f"--threads tells of a compiled file, NAME.so, not of {file}")
        require(json_file is None, "--threads prints a table alone: leave --json out")
        return show(threads_table(file, threads))
    if file.suffix == ".so":
        show(compiled_table(file))
        manifest, _ = read_manifest(file)
        write_json(json_file, {name: manifest[name] for name in MANIFEST})
        return None
    title, layers = layers_of(model, settings)
    show(summary.table(layers, title))
    write_json(json_file, {"model": model, "about": title, "layers": [asdict(layer) for layer in layers]})
    return None


def layers_of(model: str, settings: dict) -> tuple[str, list["LayerSummary"]]:
    """(a line about it, its layers) of a MODEL. Raises UserError where settings do not fit it."""
    from subp.pruning import summary

    kind, path = networks.kind_of(model)
    if kind == "name":
        network, _ = load_network(model, settings)
        return model, summary.inspect(network.module, network.only_input().shape[1:])
    foreign = settings if kind in ("onnx", "program") else ("n", "sparsity", "seed", "size")
    networks.refuse(settings, foreign, f"{model} says this itself")
    if kind == "onnx":
        return path.stem, list(onnx_layers(onnx_graph(path)))
    if kind == "program":
        network, _ = networks.exported_network(path)
        return path.stem, list(program_layers(network.module))
    module, metadata = networks.load_coded(path, settings["code"], as_trained=True)
    about = metadata.get("preprocessing")
    input_shape = (about["channels"], about["size"], about["size"]) if about else None  # without it no MACs
    return _title(metadata, input_shape), summary.inspect(module, input_shape)


def _title(metadata: dict, input_shape: tuple[int, ...] | None) -> str:
    """What the metadata tells of the network, as far as it does."""
    parts = [(metadata.get("architecture") or {}).get("name", "a network of your own")]
    if "classes" in metadata:
        parts.append(f"{len(metadata['classes'])} classes")
    if input_shape:
        parts.append(f"input {'x'.join(map(str, input_shape))}")
    if "epoch" in metadata:
        parts.append(f"epoch {metadata['epoch']}")
    if metadata.get("history") and "val_accuracy" in metadata["history"][-1]:
        parts.append(f"validation accuracy {metadata['history'][-1]['val_accuracy']:.2%}")
    return ", ".join(parts)


def compiled_table(file: Path) -> "Table":
    """The layers of a compiled file, as its manifest tells; it may be made for another CPU."""
    from rich.table import Table

    from tvm_sched.deploy import toolchain
    from tvm_sched.deploy.manifest import each_shape, read_manifest
    from tvm_sched.signature import Signature

    manifest, arch = read_manifest(file)
    size = file.stat().st_size / 1e6
    build = "dense build, " if manifest["dense"] else ""
    build += "" if manifest["precision"] == "float32" else f"{manifest['precision']}, "
    build += "" if manifest["weights"] == "float32" else f"{manifest['weights']} weights, "
    title = f"{build}target {manifest['target']} ({arch}), {manifest['threads']} threads, {size:.2f} MB"
    title += f", {toolchain.runs_with(file)}"
    told = []
    for number, signature in enumerate(map(Signature.from_json, each_shape(manifest))):
        told += [f"shape {number + 1}:"] if manifest["shapes"] else []
        told += [f"input {spec}" for spec in signature.inputs] + [f"output {spec}" for spec in signature.outputs]
    table = Table(title="\n".join([title, *told]), show_footer=True)
    layers = manifest["layers"]
    table.add_column("layer", footer="total")
    narrow = manifest["precision"] != "float32"
    for column in ("operator", "input -> output", *(["precision"] if narrow else []), "kernel"):
        table.add_column(column)
    for column in ("n", "density", "blocks"):
        table.add_column(column, justify="right")
    table.add_column("MACs", footer=f"{sum(layer['macs'] for layer in layers) / 1e6:,.2f} M", justify="right")
    table.add_column("computed", footer=f"{sum(layer['kept_macs'] for layer in layers) / 1e6:,.2f} M", justify="right")
    for layer in layers:
        blocks = f"{layer['kept']}/{layer['total']}"
        numbers = (str(layer["n"] or "-"), f"{layer['density']:.1%}", blocks, f"{layer['macs'] / 1e6:,.2f} M")
        computed = f"{layer['kept_macs'] / 1e6:,.2f} M"
        kernel = [layer["precision"], layer["kernel"]] if narrow else [layer["kernel"]]
        table.add_row(layer["name"], layer["op"], layer["shape"], *kernel, *numbers, computed)
    return table


def threads_table(file: Path, threads: list[int]) -> "Table":
    """How evenly threads share the calls of a compiled file; its last line weighs layers by their multiply-adds."""
    from collections import Counter

    from rich.table import Table

    from tvm_sched.deploy.manifest import read_manifest
    from tvm_sched.planning.sharing import SharedCall, weighted

    manifest, _ = read_manifest(file)
    if "calls" not in manifest:
        raise UserError(f"{file} does not tell how threads share its work: compile the network again")
    calls = [SharedCall.from_json(each) for each in manifest["calls"]]
    layers = {(layer["function"], layer["call"]): layer for layer in manifest["layers"]}
    work = []
    table = Table(title=f"compiled for {manifest['threads']} threads; busiest thread over the mean", show_footer=True)
    seen: Counter[str] = Counter()
    rows = []
    for call in calls:
        layer = layers.get((call.function, seen[call.function]), {"name": "-", "kept_macs": 0})
        seen[call.function] += 1
        work.append((call, float(layer["kept_macs"])))
        steps = ", ".join(f"{loop.extent}{f' x {loop.times}' if loop.times > 1 else ''}" for loop in call.loops)
        rows.append((layer["name"], call.function, steps or "-", *(f"{call.busiest(count):.2f}" for count in threads)))
    table.add_column("layer", footer="all, by multiply-adds")
    table.add_column("function")
    table.add_column("steps", justify="right")
    for count in threads:
        table.add_column(f"{count} threads", footer=f"{weighted(work, count):.2f}", justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def program_layers(program) -> Iterator["LayerSummary"]:
    """Of each convolution and product whose weight is the program's own."""
    from subp.pruning.summary import layer_summary
    from tvm_sched.frontend.aten.program import name_of, source
    from tvm_sched.frontend.aten.source_place import operator

    about = program.graph_signature
    names = {**about.inputs_to_parameters, **about.inputs_to_buffers}
    for node in program.graph.nodes:
        if operator(node) not in ("conv2d", "linear") or source(node.args[1]).name not in names:
            continue
        weight = program.state_dict[names[source(node.args[1]).name]]
        groups = node.args[6] if operator(node) == "conv2d" and len(node.args) > 6 else 1
        macs = node.meta["val"].numel() * weight[0].numel()
        kind = operator(node) if weight.is_floating_point() else f"{operator(node)} int8"
        yield layer_summary(name_of(source(node.args[1]), node, program), kind, weight.float(), groups, macs)


def onnx_graph(file: Path):
    """The graph of an ONNX file, with the shapes that can be inferred for one image."""
    import onnx

    from tvm_sched.frontend.onnx import files

    model = files.read(file)
    del model.graph.value_info[:]  # of an open batch; inferred anew for one image
    for value in (*model.graph.input, *model.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].dim_value:
            dimensions[0].dim_value = 1
    with contextlib.suppress(Exception):  # of many kinds; what it cannot infer has no multiply-accumulates here
        model = onnx.shape_inference.infer_shapes(model)
    return model.graph


def onnx_layers(graph) -> Iterator["LayerSummary"]:
    """Of each Conv, Gemm and MatMul node whose weight is in the file; MACs where its output's shape is known."""
    import torch
    from onnx import helper

    from subp.pruning.summary import layer_summary
    from tvm_sched.frontend.onnx.layers import layer_name
    from tvm_sched.frontend.onnx.tensors import tensor_of

    weights = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not weights.keys() & set(node.input[1:2]):
            continue
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        weight = tensor_of(weights[node.input[1]])
        if weight.ndim < 2 or (node.op_type != "Conv" and weight.ndim > 2):
            continue  # no layer: a product of other tensors
        if node.op_type != "Conv" and not attributes.get("transB"):
            weight = weight.transpose(-1, -2)
        shape = shapes.get(node.output[0])
        macs = torch.Size(shape).numel() * weight[0].numel() if shape and all(shape) else None
        yield layer_summary(
            layer_name(node.input[1], node.name), node.op_type, weight, attributes.get("group", 1), macs
        )
