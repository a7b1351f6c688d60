"""ONNX files: `load` makes an nn.Module of PyTorch's functions of one, which then goes the way of every other network.

`files` reads and checks, `conversion` goes through the graph by the table of `operators`, `layers` makes PyTorch's
layers of nodes with weights, `network` is the module.
"""

from tvm_sched.frontend.onnx.loading import load
from tvm_sched.frontend.onnx.network import OnnxNetwork

__all__ = ["OnnxNetwork", "load"]
