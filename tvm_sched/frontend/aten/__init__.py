"""A program in ATen's operators as a Relax module: one converter an operator, by families.

PyTorch's decompositions have run before (`frontend.decompositions`), so converters are few, and each follows PyTorch's
definition of its operator: operands are promoted by PyTorch's own rules, what depends on constants alone is computed by
PyTorch, and the shape and dtype of every result are held against those that torch.export has recorded.
"""

from tvm_sched.frontend.aten import (  # noqa: F401, imported for their converters
    choices,
    convolutions,
    indexing,
    layers,
    logic,
    pointwise,
    pooling,
    quantised,
    reductions,
    resampling,
    scans,
    views,
    windows,
)
from tvm_sched.frontend.aten.converter import CONVERTERS
from tvm_sched.frontend.aten.program import require_computable, to_relax

__all__ = ["CONVERTERS", "require_computable", "to_relax"]
