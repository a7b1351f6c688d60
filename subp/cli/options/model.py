"""The MODEL of a command line and its options."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from subp.cli.options.types import BATCH, PIXELS, SEED
from subp.deployment import networks
from subp.deployment.networks import DEFAULTS, MODEL_IS

if TYPE_CHECKING:
    from tvm_sched.bench.engines import Network

_OPTIONS = {
    "n": (click.IntRange(1), f"Block size of a named network.  [default: {DEFAULTS['n']}]"),
    "sparsity": (
        click.FloatRange(0, 1, max_open=True),
        f"Fraction of blocks pruned in a named network, from 0 to below 1.  [default: {DEFAULTS['sparsity']}]",
    ),
    "seed": (SEED, f"Seed of a named network's weights and mask.  [default: {DEFAULTS['seed']}]"),
    "size": (PIXELS, f"Height and width of the images.  [default: the file's, or {DEFAULTS['size']}]"),
    "batch": (BATCH, f"Images at a time.  [default: the file's, or {DEFAULTS['batch']}]"),
    "code": (
        str,
        "What makes the network of a state dict, or of a checkpoint of your own: "
        "FILE.py:FUNCTION, which is run, or a network's name.",
    ),
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

        with_settings.__doc__ = f"{inspect.cleandoc(command.__doc__)}\n\nMODEL is {MODEL_IS}."
        for name in reversed(names):
            kind, help_ = _OPTIONS[name]
            with_settings = click.option(f"--{name}", type=kind, help=help_)(with_settings)
        return with_settings

    return decorate


def load_network(model: str, settings: dict) -> tuple["Network", dict]:
    """(network, metadata) of a MODEL, see `networks.load_network`; prints a line about one of random weights."""
    from subp.cli.options.terminal import say

    return networks.load_network(model, settings, say)
