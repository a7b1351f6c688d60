"""The MODEL of a command line: a checkpoint, an exported program, or a name that stands for random weights."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp_contract.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from tvm_sched.bench.engines import Network
    from tvm_sched.bench.suite import LayerShape

CLASSES = 1000  # of a named network
DEFAULTS = {"n": 16, "sparsity": 0.75, "seed": 0, "size": 224, "batch": 1}  # of a named network

MODEL_HELP = (
    "a checkpoint (.safetensors), an exported program (.pt2), or the name of a network, for one with random weights"
)

_OPTIONS = {
    "n": (click.IntRange(1), "Block size of a named network [16]."),
    "sparsity": (click.FloatRange(0, 1, max_open=True), "Fraction of blocks pruned in a named network [0.75]."),
    "seed": (int, "Of a named network's weights and mask [0]."),
    "size": (click.IntRange(1), "Height and width of the images [the checkpoint's, or 224]."),
    "batch": (click.IntRange(1), "Images at a time [1]."),
    "code": (str, "FILE.py:FUNCTION that makes a checkpoint's network, for one of your own; the file is run."),
}


def model_options(*names: str) -> Callable:
    """Adds the options of these names (all without any), which the command gets as one dictionary, `settings`.

    The command's help ends with what a MODEL may be.
    """
    names = names or tuple(_OPTIONS)

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def with_settings(*args, **kwargs):
            settings = {name: kwargs.pop(name, None) for name in _OPTIONS}
            return command(*args, settings=settings, **kwargs)

        with_settings.__doc__ = f"{inspect.cleandoc(command.__doc__)}\n\nMODEL is {MODEL_HELP}."
        for name in reversed(names):
            kind, help_ = _OPTIONS[name]
            with_settings = click.option(f"--{name}", type=kind, help=help_)(with_settings)
        return with_settings

    return decorate


def load_network(model: str, settings: dict) -> tuple["Network", dict]:
    """(network, metadata) of a MODEL, the metadata a checkpoint's, else empty.

    settings: the options of `model_options` by name, None where not given. Raises UserError where there is none.
    """
    path = Path(model)
    if path.suffix == ".pt2":
        _refuse(settings, _OPTIONS, f"{model} is an exported program with weights and an input shape of its own")
        return exported_network(path), {}
    if path.suffix == ".safetensors":
        _refuse(settings, ("n", "sparsity", "seed"), f"{model} is a checkpoint with weights of its own")
        return checkpoint_network(path, settings["size"], settings["batch"] or 1, settings.get("code"))
    if path.is_file():
        raise UserError(f"{model} is neither a checkpoint (.safetensors) nor an exported program (.pt2)")
    _refuse(settings, ("code",), f"{model} is the name of a network, not a checkpoint")
    chosen = {name: default if settings[name] is None else settings[name] for name, default in DEFAULTS.items()}
    network = random_network(model, **chosen)
    mask = f"a random 1x{network.n} mask, {network.sparsity:.0%} pruned" if network.n else "no mask"
    click.echo(f"{model}: random weights, {mask}")
    return network, {}


def _refuse(settings: dict, names: Iterable[str], reason: str) -> None:
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
    channels = about.get("channels", 3)
    if about and size not in (None, about["size"]):
        metadata["preprocessing"] = Preprocessing.standard(size, channels).as_dict()
    size = size or about.get("size", DEFAULTS["size"])
    x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
    return Network.of(path.stem, module, x), metadata


def load_coded(path: Path, code: str | None) -> tuple["nn.Module", dict]:
    """`checkpoint.load_model`, of a network that `code` makes if that is given."""
    from subp import models
    from subp.training import checkpoint

    if code is None:
        return checkpoint.load_model(path)
    architecture = checkpoint.load(path).metadata.get("architecture") or {}
    missing = {"num_classes", "in_channels"} - architecture.keys()
    if missing:
        raise UserError(f"{path} does not say {' and '.join(sorted(missing))} of its network: load it in Python")
    return checkpoint.load_model(path, models.create(**architecture | {"name": code}))


def exported_network(path: Path) -> "Network":
    """The network of a file that `torch.export.save` wrote, with the input shape it was exported for."""
    import torch

    from tvm_sched.bench.engines import Network

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch logs a traceback where it cannot read the file, and raises besides
    try:
        program = torch.export.load(path)
    except Exception as error:  # its reader raises whatever the damage leads to
        raise UserError(f"{path} is truncated or not an exported program: write one with torch.export.save") from error
    finally:
        logging.disable(disabled)
    inputs = [program.graph_signature.user_inputs[0]] if len(program.graph_signature.user_inputs) == 1 else []
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name in inputs]
    if not shapes or not all(isinstance(size, int) for size in shapes[0]):
        raise UserError(f"{path} must take one tensor of a fixed shape; export it without dynamic shapes")
    x = torch.randn(shapes[0], generator=torch.Generator().manual_seed(0))
    return Network.of(path.stem, program, x)


def random_network(name: str, *, n: int, sparsity: float, seed: int, size: int, batch: int) -> "Network":
    """A named network with random weights and a random uniform 1xN mask on all but stem and classifier.

    That is what a comparison of latencies needs, for they do not depend on the weights' values. Its activations and
    outputs are of about unit scale on random images, so that an error made anywhere is seen at the end.
    """
    import torch

    from subp import models
    from subp.pruning.sparsifier import Sparsifier
    from tvm_sched.bench.engines import Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.create(name, CLASSES)
        if sparsity:
            # Of random weights the largest blocks are random ones.
            sparsifier = Sparsifier(module, n=n, sparsity=sparsity, criterion="l1", epochs=1, start=0, end=0, seed=seed)
            sparsifier.step(0)
            sparsifier.fold()
        to_unit_scale(module, torch.randn(8, 3, size, size))
        x = torch.randn(batch, 3, size, size)
    return Network.of(name, module, x)


def random_layer(shape: "LayerShape", *, n: int, sparsity: float, batch: int) -> "Network":
    """A single layer with bias and ReLU, random weights and a random uniform 1xN mask; at least a block a group stays.

    A convolution takes and gives [B, H, W, C], as inside a network of ours, so that nothing is transposed around it.
    """
    import torch

    from tvm_sched.bench.engines import Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if shape.size is None:
            layer = torch.nn.Linear(shape.channels, shape.out_channels)
            x = torch.randn(batch, shape.channels)
        else:
            sizes = {"stride": shape.stride, "padding": shape.kernel // 2, "groups": shape.groups}
            layer = torch.nn.Conv2d(shape.channels, shape.out_channels, shape.kernel, **sizes)
            x = torch.randn(batch, shape.size, shape.size, shape.channels)
        if sparsity:
            rows, channels = -(-shape.out_channels // n), layer.weight.shape[1]
            kept = torch.rand(rows, channels).argsort(1) < max(1, round(channels * (1 - sparsity)))
            mask = kept.repeat_interleave(n, 0)[: shape.out_channels]
            layer.weight.data *= mask.reshape(*mask.shape, *[1] * (layer.weight.ndim - 2))
    layer = torch.nn.Sequential(layer, torch.nn.ReLU()).eval()
    module = layer if shape.size is None else channels_last(layer)
    return Network(shape.name, module.eval(), x, n if sparsity else None, sparsity)


def channels_last(layer):
    """The module with its input and output as [B, H, W, C]; `layer` is the one given."""
    import torch

    class ChannelsLast(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    return ChannelsLast()


def to_unit_scale(module, images) -> None:
    """Scales the weights of every convolution and linear layer to outputs of standard deviation 1 on `images`
    [B, C, H, W], and gives every batch norm their statistics. Zeros stay zero, but for parameters that are all (nearly)
    zero at first (biases, scales of residual branches, some heads): these hide what is behind them, and become random.
    """
    import torch

    for parameter in module.parameters():
        if parameter.abs().max() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.1)

    def divide(layer, _inputs, output):
        deviation = output.std()
        if not 0 < deviation < float("inf"):
            return output
        for parameter in layer.parameters(recurse=False):
            parameter.div_(deviation)
        return output / deviation

    layers = [layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    norms = [layer for layer in module.eval().modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    hooks = [layer.register_forward_hook(divide) for layer in layers]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the mean of all batches seen
    with torch.no_grad():
        module(images)
    for hook in hooks:
        hook.remove()
    for norm, momentum in zip(norms, momenta):
        norm.eval().momentum = momentum
