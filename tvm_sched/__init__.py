"""Deployment: a PyTorch network with uniform 1xN zeros becomes one shared library whose kernels skip them.

    artifact = tvm_sched.compile(module, example_input, target="x86-avx512")
    artifact.save("net.so")
    tvm_sched.load("net.so")(x)  # NumPy in, NumPy out
"""

from tvm_sched import runtime  # first: it sets up TVM's threads
from tvm_sched.artifact import Artifact, load
from tvm_sched.compiler import compile
from tvm_sched.errors import UserError

__all__ = ["Artifact", "UserError", "compile", "load", "runtime", "tune"]


def __getattr__(name):
    if name == "tune":  # TVM is imported when it is needed, not with the package
        from tvm_sched.tuning import tune

        return tune
    raise AttributeError(f"module 'tvm_sched' has no attribute '{name}'")
