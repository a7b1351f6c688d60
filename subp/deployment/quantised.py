"""A network of a MODEL in 8 bits: calibrated on images or arrays, written as an exported program."""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils.data import Subset

import tvm_sched
from subp.common.seeds import generator
from subp.data.loaders import Data, Loading, batches, datasets, val_batches
from subp.data.preprocessing import Preprocessing
from subp.deployment.arrays import read_arrays
from subp.deployment.networks import METADATA, kind_of
from subp_contract.errors import UserError, require
from subp_contract.files import write_atomically
from tvm_sched import precision as precisions
from tvm_sched.bench.engines import Network
from tvm_sched.planning.narrow_weights import require_known
from tvm_sched.targets import Target

BATCH = 16  # images at a time, where the network takes any number
BATCHES = 32  # of them that are drawn, where nobody says how many


def require_precision(precision: str, weights: str, data: str | None, target: Target) -> None:
    """Raises UserError for a precision that a target does not serve, and for what does not go with it: a dtype of
    weights, or data to calibrate on.
    """
    precisions.of(precision, target)
    require_known(weights, precision)
    require(data is None or takes_calibration(precision), "--calibrate is for --precision int8 or auto")


def takes_calibration(precision: str) -> bool:
    """Whether a network of that precision may have to be quantised."""
    return precision in (precisions.INT8.word, precisions.AUTO)


def for_precision(
    precision: str,
    data: str | None,
    model: str,
    network: Network,
    metadata: Mapping,
    tell: Callable[[str], object] = lambda line: None,
) -> list[Tensor] | None:
    """What a MODEL is calibrated on for a precision: `calibration` of `data`; without that random images for a named
    network, as `tell` is told, since its weights are random as well; None for another.
    """
    if data is not None:
        return calibration(data, network, metadata, BATCHES, seed=0, download=False)
    if not takes_calibration(precision) or kind_of(model)[0] != "name":
        return None
    tell(f"{model}: calibrated on random images, which will do for its times")
    return network.options(precision)["calibration"]


def calibration(data: str, network: Network, metadata: Mapping, count: int, seed: int, download: bool) -> list[Tensor]:
    """At most `count` batches of inputs: of the training images that `data` names (`loaders.datasets`), drawn by the
    seed and prepared as at evaluation, or the first numbers of a .npy file [N, ...].

    metadata: a checkpoint's classes, which the data must have in the same order, and its preprocessing
    Raises UserError where the data do not fit the network.
    """
    x = network.only_input()
    size = BATCH if takes_any_batch(network) else len(x)
    path = Path(data)
    if path.suffix == ".npy":
        return list(array(path, x)[: count * size].split(size))[:count]
    if path.is_file() and path.suffix.lower() != ".zip":
        raise UserError(f"{path} is neither a folder or a .zip of images nor a .npy file of inputs")
    if x.ndim != 4:
        raise UserError(f"{network.name} takes {list(x.shape)}, no images: give a .npy file of its inputs")
    about = metadata.get("preprocessing")
    preprocessing = Preprocessing(**about) if about else Preprocessing.standard(x.shape[-1], x.shape[1])
    images = datasets(data, size=preprocessing.size, seed=seed, download=download)
    if metadata.get("classes"):
        require_classes(data, images.classes, metadata["classes"])
    return chosen(replace(images, preprocessing=preprocessing), count * size, size, seed)


def takes_any_batch(network: Network) -> bool:
    """Whether a network is a module of PyTorch's; an exported program, or an ONNX file's, is for a batch of its own."""
    return isinstance(network.module, nn.Module) and not hasattr(network.module, "stored")


def chosen(data: Data, images: int, size: int, seed: int) -> list[Tensor]:
    """Whole batches of that size of so many training images, or of as many as there are, drawn by the seed."""
    order = torch.randperm(len(data.train), generator=generator(seed, "calibration"))[:images].tolist()
    loader = val_batches(replace(data, val=Subset(data.train, order)), Loading(size))
    inputs = [x for x, _ in batches(loader)]
    return [x for x in inputs if len(x) == size] or inputs


def array(path: Path, x: Tensor) -> Tensor:
    """The inputs in a file, as the network takes them like `x`."""
    held = read_arrays(path)[""]
    if not held.ndim or held.shape[1:] != tuple(x.shape[1:]) or held.dtype != x.numpy().dtype or not len(held):
        wanted = f"[N, {', '.join(map(str, x.shape[1:]))}] {x.numpy().dtype}"
        raise UserError(f"{path} holds {list(held.shape)} {held.dtype}, where the network takes {wanted}")
    return torch.from_numpy(held)


def require_classes(data: str, found: list[str], wanted: list[str]) -> None:
    """Raises UserError where the data's classes are not the network's, in its order."""
    if list(found) == list(wanted):
        return
    if len(found) != len(wanted):
        raise UserError(f"{data} has {len(found)} classes, where the network has {len(wanted)}: give data of its kind")
    place = next(i for i, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
    raise UserError(
        f"class {place} of {data} is {found[place]!r}, where the network has {wanted[place]!r}: give data with its "
        "classes in the same order"
    )


def quantize(network: Network, inputs: Iterable[Tensor], weight_bits: int = 8) -> ExportedProgram:
    """`tvm_sched.quantize`, for inputs of the network's own batch."""
    return tvm_sched.quantize(network.module, inputs, network.only_input(), weight_bits=weight_bits)


def save(program: ExportedProgram, metadata: Mapping[str, Any], path: Path) -> None:
    """Writes the program with what the metadata tell of its classes and preprocessing."""
    told = {key: metadata[key] for key in ("classes", "preprocessing") if key in metadata}
    file = io.BytesIO()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # places on this machine
    torch.export.save(program, file, extra_files={METADATA: json.dumps(told)})
    write_atomically(path, file.getvalue())


def summary(program: ExportedProgram) -> str:
    """How many of the layers have weights of 8 bits, in words."""
    layers = [node for node in program.graph.nodes if str(node.target).startswith(("aten.conv2d", "aten.linear"))]
    count = sum("dequantize" in str(node.args[1].target) for node in layers)
    require(count > 0, "no layer is quantised")
    return f"{count} of {len(layers)} layers in int8"
