"""The network that a MODEL stands for: a checkpoint or its folder, an exported program, an ONNX file, a network's name,
or a state dict whose network --code makes. Every command takes these, and MODEL_IS says so in help and refusals.

What is heavy is imported by the functions: commands' help reads DEFAULTS.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from subp_contract.documents import parse_json
from subp_contract.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from tvm_sched.bench.engines import Network

METADATA = "subp.json"  # the member of a .pt2 file with classes and preprocessing
DEFAULTS = {"n": 16, "sparsity": 0.75, "seed": 0, "size": 224, "batch": 1}  # of a named network
MODEL_IS = (
    "a checkpoint of `subp train` (.safetensors) or its folder, an exported program (.pt2), an ONNX file (.onnx), a "
    "network's name, such as resnet18, for one with random weights, or with --code a state dict (.pth, .pt, .ckpt, "
    ".safetensors)"
)
HELD = ("model.safetensors", "checkpoint.safetensors")  # in a folder of `subp train`, the first that is there
KINDS = {".pt2": "program", ".onnx": "onnx", ".safetensors": "checkpoint"}  # by the ending
STATES = (".pth", ".pt", ".ckpt", ".bin", ".tar")  # what torch.save wrote


def kind_of(model: str) -> tuple[str, Path]:
    """What a MODEL is, and its file: "checkpoint" (its folder's where it is one; or a state dict of .safetensors),
    "state", "program", "onnx", or "name". Raises UserError, with what a MODEL may be, where it can be none of these.
    """
    path = Path(model)
    for name in HELD if path.is_dir() else ():
        if (path / name).is_file():
            return "checkpoint", path / name
    ending = path.suffix.lower()
    kind = KINDS.get(ending) or ("state" if ending in STATES else "name")
    if kind != "name" and not path.is_file():
        raise UserError(f"there is no file {model}")
    if kind == "name" and (path.exists() or path.suffix == ".so") and not _is_network(model):
        what = "a folder without a checkpoint" if path.is_dir() else "compiled" if path.suffix == ".so" else "a file"
        raise UserError(f"{model} is no MODEL, but {what}: give {MODEL_IS}")
    if kind == "name" and not _is_network(model):
        from subp import models

        raise UserError(f"there is neither a file nor a network {model} ({models.hint(model)}): give {MODEL_IS}")
    return kind, path


def _is_network(name: str) -> bool:
    from subp import models

    return models.is_known(name)


def load_network(model: str, settings: dict, tell: Callable[[str], None] = lambda line: None) -> tuple["Network", dict]:
    """(network, metadata) of a MODEL, the metadata a checkpoint's, else empty.

    settings: "code" and those of DEFAULTS by name, None where not given
    tell:     gets a line about a network of random weights
    Raises UserError where there is no such network, or where settings do not fit it.
    """
    kind, path = kind_of(model)
    if kind == "program":
        own = [name for name in settings if name != "batch"]
        refuse(settings, own, f"{model} is an exported program with weights and an input shape of its own")
        return exported_network(path, settings.get("batch"))
    if kind == "onnx":
        refuse(settings, ("n", "sparsity", "seed", "code"), f"{model} is an ONNX file with weights of its own")
        return onnx_network(path, settings["size"], settings["batch"]), {}
    if kind in ("checkpoint", "state"):
        refuse(settings, ("n", "sparsity", "seed"), f"{model} has weights of its own")
        return checkpoint_network(path, settings["size"], settings["batch"] or 1, settings.get("code"))
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
    """The folded network of a checkpoint or a state dict, taking images of its own size unless another is given; so
    does the metadata's preprocessing. code: what makes the network, if the file does not say it. Raises UserError for
    a file or code that does not give one, and another size than a quantised network's.
    """
    import torch

    from subp.data.preprocessing import Preprocessing
    from tvm_sched.bench.engines import Network

    module, metadata = load_coded(path, code)
    about = metadata.get("preprocessing") or {}
    if isinstance(module, torch.fx.GraphModule) and about and size not in (None, about["size"]):
        raise UserError(f"{path} is quantised for images of {about['size']} pixels: leave out --size")
    channels = about.get("channels") or (metadata.get("architecture") or {}).get("in_channels", 3)
    if about and size not in (None, about["size"]):
        metadata["preprocessing"] = Preprocessing.standard(size, channels).as_dict()
    size = size or about.get("size", DEFAULTS["size"])
    x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
    return Network.of(path.stem, module, x), metadata


def load_coded(path: Path, code: str | None, as_trained: bool = False) -> tuple["nn.Module", dict]:
    """`checkpoint.load_model`; or the network that `code` makes, with the weights of a checkpoint or a state dict: its
    classes and channels are those of its last and first layer. Raises UserError where neither says which network it
    is, and for weights that do not fit it.
    """
    from subp import models
    from subp.models import weights
    from subp.training import checkpoint

    if weights.is_state_dict(path):
        if code is None:
            raise UserError(
                f"{path} holds weights without their network: say which by --code NAME, such as resnet18, or by "
                "--code FILE.py:FUNCTION, which is called as FUNCTION(num_classes=..., in_channels=...)"
            )
        state = weights.read_state_dict(path)
        architecture = {"name": code, **weights.sizes(state)}
        module = models.create(**architecture)
        weights.fill(module, weights.unwrapped(state, module), f"{path} does not fit {code}")
        return module.eval(), {"architecture": architecture}
    if code is None:
        return checkpoint.load_model(path, as_trained=as_trained)
    architecture = checkpoint.load(path).metadata.get("architecture") or {}
    missing = {"num_classes", "in_channels"} - architecture.keys()
    if missing:
        raise UserError(f"{path} does not say {' and '.join(sorted(missing))} of its network: load it in Python")
    module = models.create(code, architecture["num_classes"], architecture["in_channels"])
    return checkpoint.load_model(path, module, as_trained=as_trained)


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

    from subp.common import programs
    from subp.training.checkpoint import About
    from tvm_sched.bench.engines import Network
    from tvm_sched.frontend import torch_export
    from tvm_sched.frontend.aten import quantised  # noqa: F401, registers the operators of quantised programs
    from tvm_sched.frontend.signatures import signature_of
    from tvm_sched.frontend.torch_export import from_array
    from tvm_sched.signature import check_inputs

    program, extra = programs.read(path)
    metadata = parse_json(extra.get(METADATA) or "{}", About, f"the {METADATA} in {path}")
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
