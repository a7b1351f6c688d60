"""The network that a MODEL stands for: a checkpoint (.safetensors), an exported program (.pt2), an ONNX file (.onnx),
or a name, for one of random weights.

What is heavy is imported by the functions: commands' help reads DEFAULTS.
"""

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from subp_contract.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from tvm_sched.bench.engines import Network

METADATA = "subp.json"  # the member of a .pt2 file with classes and preprocessing
DEFAULTS = {"n": 16, "sparsity": 0.75, "seed": 0, "size": 224, "batch": 1}  # of a named network


def load_network(model: str, settings: dict, tell: Callable[[str], None] = lambda line: None) -> tuple["Network", dict]:
    """(network, metadata) of a MODEL, the metadata a checkpoint's, else empty.

    settings: "code" and those of DEFAULTS by name, None where not given
    tell:     gets a line about a network of random weights
    Raises UserError where there is no such network, or where settings do not fit it.
    """
    path = Path(model)
    if path.suffix == ".pt2":
        own = [name for name in settings if name != "batch"]
        refuse(settings, own, f"{model} is an exported program with weights and an input shape of its own")
        return exported_network(path, settings.get("batch"))
    if path.suffix == ".onnx":
        refuse(settings, ("n", "sparsity", "seed", "code"), f"{model} is an ONNX file with weights of its own")
        return onnx_network(path, settings["size"], settings["batch"]), {}
    if path.suffix == ".safetensors":
        refuse(settings, ("n", "sparsity", "seed"), f"{model} is a checkpoint with weights of its own")
        return checkpoint_network(path, settings["size"], settings["batch"] or 1, settings.get("code"))
    if path.is_file():
        raise UserError(f"{model} is no checkpoint (.safetensors), exported program (.pt2) or ONNX file (.onnx)")
    refuse(settings, ("code",), f"{model} is the name of a network, not a checkpoint")
    chosen = {name: default if settings[name] is None else settings[name] for name, default in DEFAULTS.items()}
    from subp.deployment.random_networks import random_network

    network = random_network(model, **chosen)
    mask = f"a random 1x{network.n} mask, {network.sparsity:.0%} pruned" if network.n else "no mask"
    tell(f"{model}: random weights, {mask}")
    return network, {}


def refuse(settings: dict, names: Iterable[str], reason: str) -> None:
    """Raises UserError where one of these settings is given."""
    given = [f"--{name}" for name in names if settings.get(name) is not None]
    if given:
        raise UserError(f"{reason}: leave out {' and '.join(given)}")


def checkpoint_network(path: Path, size: int | None, batch: int, code: str | None = None) -> tuple["Network", dict]:
    """The folded network of a checkpoint, taking images of its own size unless another is given; so does the metadata's
    preprocessing. code: what makes the network, if it is a file of the user's.
    """
    import torch

    from subp.data.transforms import Preprocessing
    from tvm_sched.bench.engines import Network

    module, metadata = load_coded(path, code)
    about = metadata.get("preprocessing") or {}
    if isinstance(module, torch.fx.GraphModule) and about and size not in (None, about["size"]):
        raise UserError(f"{path} is quantised for images of {about['size']} pixels: leave out --size")
    channels = about.get("channels", 3)
    if about and size not in (None, about["size"]):
        metadata["preprocessing"] = Preprocessing.standard(size, channels).as_dict()
    size = size or about.get("size", DEFAULTS["size"])
    x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
    return Network.of(path.stem, module, x), metadata


def load_coded(path: Path, code: str | None, as_trained: bool = False) -> tuple["nn.Module", dict]:
    """`checkpoint.load_model`, of a network that `code` makes if that is given."""
    from subp import models
    from subp.training import checkpoint

    if code is None:
        return checkpoint.load_model(path, as_trained=as_trained)
    architecture = checkpoint.load(path).metadata.get("architecture") or {}
    missing = {"num_classes", "in_channels"} - architecture.keys()
    if missing:
        raise UserError(f"{path} does not say {' and '.join(sorted(missing))} of its network: load it in Python")
    return checkpoint.load_model(path, models.create(**architecture | {"name": code}), as_trained=as_trained)


def onnx_network(path: Path, size: int | None, batch: int | None) -> "Network":
    """The network of an ONNX file. size and batch: of its images, where the file leaves them open."""
    from tvm_sched.bench.engines import Network
    from tvm_sched.frontend.onnx import load

    module = load(path, batch, size)
    inputs = module.example_inputs()
    return Network.of(path.stem, module, inputs[0] if len(inputs) == 1 else inputs)


def exported_network(path: Path, batch: int | None = None) -> tuple["Network", dict]:
    """(the network of a file that `torch.export.save` wrote, with the inputs that it was exported for; what
    `subp quantize` tells of them there). batch: of one that takes batches of any size.
    """
    import torch
    from torch.utils._pytree import tree_map

    from tvm_sched.bench.engines import Network
    from tvm_sched.frontend import torch_export
    from tvm_sched.frontend.aten import quantised  # noqa: F401, registers the operators of quantised programs
    from tvm_sched.frontend.signatures import signature_of
    from tvm_sched.frontend.torch_export import from_array
    from tvm_sched.signature import check_inputs

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch logs a traceback where it cannot read the file, and raises besides
    try:
        extra = {METADATA: ""}
        program = torch.export.load(path, extra_files=extra)
        metadata = json.loads(extra[METADATA] or "{}")
    except Exception as error:  # its reader raises whatever the damage leads to
        raise UserError(f"{path} is truncated or not an exported program: write one with torch.export.save") from error
    finally:
        logging.disable(disabled)
    if batch is not None:
        if not torch_export.is_open(program):
            raise UserError(f"{path} is an exported program for batches of one size: leave out --batch")
        args, kwargs = program.example_inputs
        resized = tree_map(lambda x: x[torch.arange(batch) % len(x)] if isinstance(x, torch.Tensor) else x, args)
        program = torch_export.fixed(program, resized, kwargs)
    program = torch_export.fixed(program)
    signature = signature_of(program)
    if not signature.is_plain:
        return Network.of(path.stem, program, None), metadata  # which holds an example itself
    (x,) = check_inputs(signature.inputs, seed=0)
    return Network.of(path.stem, program, from_array(x)), metadata
