"""Networks by name: the papers' ones that torchvision lacks, torchvision's classifiers, timm's (`timm/NAME`), and one's
own (`path/to/file.py:function`); and weights read from files.

May import subp.common, and masking of subp.pruning to fold a checkpoint's masks; must not know training.
"""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from subp.common.vision import import_torchvision
from subp.models import elsewhere
from subp.models.cifar_resnet import CifarResNet
from subp.models.mobilenet_v1 import MobileNetV1
from subp.models.weights import load_weights
from subp_contract.errors import UserError

OWN: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56, 110)},
    "resnet20_x2": partial(CifarResNet, 20, width=2),
    "mobilenet_v1": MobileNetV1,
    **{
        f"mobilenet_v1_x{width}".replace(".", "_"): partial(MobileNetV1, width=width)
        for width in (0.25, 0.375, 0.5, 0.75)
    },
}

# Auxiliary classifiers make these return a tuple in training; the trainer wants one tensor.
_WITHOUT_AUXILIARY = {name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")}


def create(name: str, num_classes: int, in_channels: int = 3, weights_file: str | Path | None = None) -> nn.Module:
    """A new network, randomly initialised from PyTorch's global generator or with the weights of a local file.

    name:          one of `OWN`; or of torchvision's classification models ("resnet18", "mobilenet_v3_small", ...);
                   "timm/NAME"; or "FILE.py:FUNCTION", which is called as function(num_classes=..., in_channels=...)
    in_channels:   of the images; a torchvision network gets a new first convolution where it is not 3
    weights_file:  a state dict saved by torch.save, a .safetensors file, or a checkpoint of subp's, whose names and
                   shapes are the network's
    """
    if name in OWN:
        model = OWN[name](num_classes=num_classes, in_channels=in_channels)
    elif elsewhere.is_file(name):
        model = elsewhere.from_file(name, num_classes, in_channels)
    elif name.startswith(elsewhere.TIMM):
        model = elsewhere.from_timm(name, num_classes, in_channels)
    else:
        model = _from_torchvision(name, num_classes, in_channels)
    if weights_file is not None:
        load_weights(model, Path(weights_file))
    return model


def is_known(name: str) -> bool:
    """Whether `create` knows the name; of timm's and one's own, whether it looks like such a name."""
    return name.startswith(elsewhere.TIMM) or elsewhere.is_file(name) or name in (*OWN, *_torchvision_names())


def hint(name: str) -> str:
    """The names that are closest to an unknown one, in words."""
    close = difflib.get_close_matches(name, [*OWN, *_torchvision_names()], n=3)
    return f"did you mean {' or '.join(close)}?" if close else "take a name of torchvision's, such as resnet18"


def _torchvision_names() -> list[str]:
    models = import_torchvision().models
    return models.list_models(module=models)


def _from_torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    models = import_torchvision().models
    if not is_known(name):
        raise UserError(f"there is no model {name!r}: {hint(name)}")
    model = models.get_model(name, weights=None, num_classes=num_classes, **_WITHOUT_AUXILIARY.get(name, {}))
    return model if in_channels == 3 else _with_input_channels(model, in_channels)


def _with_input_channels(model: nn.Module, in_channels: int) -> nn.Module:
    name, stem = next((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    settings = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    parent, _, child = name.rpartition(".")
    setattr(
        model.get_submodule(parent),
        child,
        nn.Conv2d(in_channels, stem.out_channels, bias=stem.bias is not None, **settings),
    )
    return model
