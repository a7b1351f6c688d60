"""ONNX's operators as PyTorch's functions, by what they do; `registry.OPERATORS` is the table, which importing this
package fills. Knows nothing of files and graphs.
"""

from tvm_sched.frontend.onnx.operators import (
    activations,
    convolutions,
    elementwise,
    indexing,
    losses,
    normalisation,
    pooling,
    recurrent,
    reductions,
    resizing,
    sampling,
    shapes,
    spectra,
)
from tvm_sched.frontend.onnx.operators.registry import OPERATORS, Node, Operator

__all__ = [
    "OPERATORS",
    "Node",
    "Operator",
    "activations",
    "convolutions",
    "elementwise",
    "indexing",
    "losses",
    "normalisation",
    "pooling",
    "recurrent",
    "reductions",
    "resizing",
    "sampling",
    "shapes",
    "spectra",
]
