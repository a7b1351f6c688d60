"""Converters of operators between numbers in 8 bits and what they stand for: PyTorch's `pairs`, and ONNX's own steps,
which are rounded otherwise. Importing it registers these operators with PyTorch too.
"""

from tvm_sched.frontend.aten.quantised import onnx_steps, pairs  # noqa: F401, imported for their converters
