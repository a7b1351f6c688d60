"""torchvision, also where its wheel and PyTorch's do not match in kind."""

import importlib
import sys
from types import ModuleType

import torch

_schemas = None  # of torchvision's operators; they last as long as this object


def import_torchvision() -> ModuleType:
    """torchvision with its `datasets`, `models` and `transforms.v2`.

    PyPI's torchvision is built for CUDA. Next to a CPU build of PyTorch its binary operators do not load, and its
    Python part, which is all that is needed here, then fails to import for want of two operator schemas ("operator
    torchvision::nms does not exist"). In that case the schemas are declared here and the import is tried again.
    """
    try:
        return _import()
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    _declare_schemas()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # the half-made import
    return _import()


def _import() -> ModuleType:
    for part in ("datasets", "models", "transforms.v2"):
        importlib.import_module(f"torchvision.{part}")
    return sys.modules["torchvision"]


def _declare_schemas() -> None:
    global _schemas
    _schemas = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
