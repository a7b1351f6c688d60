"""Evaluation mode for a while, without changing which parts of a network are frozen.

`module.train(was_training)` afterwards would put every submodule into one mode, also batch norms that somebody had
frozen with `eval()`. Knows a module by its methods only: nothing is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar


class Module(Protocol):
    """What is needed of a `torch.nn.Module`."""

    training: bool

    def modules(self) -> Iterator["Module"]: ...

    def eval(self) -> "Module": ...


M = TypeVar("M", bound=Module)


@contextmanager
def in_eval_mode(module: M) -> Iterator[M]:
    """The module, all of it in evaluation mode within the block; each submodule is back in its own mode after it."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for each, training in modes:
            each.training = training
