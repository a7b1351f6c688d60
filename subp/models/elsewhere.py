"""Networks from timm, and from a file of the user's."""

import difflib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path

from torch import nn

from subp.common.vision import import_torchvision
from subp_contract.distribution import install
from subp_contract.errors import UserError, require

TIMM = "timm/"


def is_file(name: str) -> bool:
    """Whether the name is one of a function in a file, FILE.py:FUNCTION. Making that network runs the file."""
    return ".py:" in name


def from_file(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """What the function returns; modules beside its file can be imported there. Raises UserError where there is none,
    where it fails, or where it does not return a network.
    """
    file, _, function = name.rpartition(":")
    path = Path(file).resolve()
    require(path.is_file(), f"there is no file {file}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{file} {_failure(error, path)}") from error
    build = getattr(module, function, None)
    require(callable(build), f"{file} has no function {function!r}")
    options = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        inspect.signature(build).bind(**options)
    except TypeError as error:
        raise UserError(f"{name} must be callable with num_classes and in_channels: {error}") from error
    try:
        model = build(**options)
    except Exception as error:
        raise UserError(f"{name} {_failure(error, path)}") from error
    require(isinstance(model, nn.Module), f"{name} returns {type(model).__name__}, not a torch.nn.Module")
    return model


def _failure(error: Exception, path: Path) -> str:
    """What went wrong in the user's file, and in which of its lines."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"fails{f' in line {line}' if line else ''}: {type(error).__name__}: {error}"


def from_timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """A classifier of timm's, randomly initialised. Raises UserError where timm or the name is missing."""
    import_torchvision()  # which timm imports too
    try:
        import timm
    except ImportError as error:
        raise UserError(f"{name} needs timm: {install('timm')} ({error})") from error
    architecture = name.removeprefix(TIMM)
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f": did you mean {' or '.join(TIMM + known for known in close)}?" if close else ""
        raise UserError(f"timm has no model {architecture!r}{hint}")
    return timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=in_channels)
