"""torchao's modules, imported without its warnings: its compiled parts for GPUs, which nothing here needs, do not load
on a machine without one. Its search for batch norms is kept to what networks here can have.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import torch

_LOGGERS = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
_LEVELS = [logger.level for logger in _LOGGERS]
try:
    for _logger in _LOGGERS:
        _logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.pt2e import (
            fake_quantize,
            observer,
            qat_utils,
            quantize_pt2e,
            quantizer,
        )
finally:
    for _logger, _level in zip(_LOGGERS, _LEVELS, strict=True):
        _logger.setLevel(_level)

__all__ = ["conv2d_alone", "fake_quantize", "observer", "quantize_pt2e", "quantizer"]

CONV2D = torch.nn.functional.conv2d
TRACE = "_get_aten_graph_module_for_pattern"  # torchao's name for what traces a pattern
_patterns: dict[tuple, list] = {}  # (search, its options) -> what it traces, in order


@contextmanager
def conv2d_alone() -> Iterator[None]:
    """While the block runs, torchao looks for batch norms in training behind conv2d alone, and traces what it looks for
    once a process. It would trace each pattern anew, a hundred of them in 15 s; nothing but conv2d is quantised here
    (`sites.LAYERS`).
    """
    names = ("_fuse_conv_bn_qat_helper", "_fold_conv_bn_qat_helper")
    helpers = {name: getattr(qat_utils, name) for name in names}

    def kept_to_conv2d(name, helper):
        def run(module, convolution, example_inputs, is_cuda):
            if convolution is not CONV2D:
                return module
            with traced_once((name, is_cuda)):
                return helper(module, convolution, example_inputs, is_cuda)

        return run

    try:
        for name, helper in helpers.items():
            setattr(qat_utils, name, kept_to_conv2d(name, helper))
        yield
    finally:
        for name, helper in helpers.items():
            setattr(qat_utils, name, helper)


@contextmanager
def traced_once(search: tuple) -> Iterator[None]:
    """While the block runs, the patterns of a search, which always asks for the same in the same order, are those that
    it asked for first.
    """
    trace, known, places = getattr(qat_utils, TRACE), _patterns.setdefault(search, []), count()

    def traced(*args, **kwargs):
        if (place := next(places)) == len(known):
            known.append(trace(*args, **kwargs))
        return known[place]

    setattr(qat_utils, TRACE, traced)
    try:
        yield
    finally:
        setattr(qat_utils, TRACE, trace)
