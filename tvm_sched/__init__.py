"""Deployment: a PyTorch network with uniform 1xN zeros becomes one shared library whose kernels skip them.

    artifact = tvm_sched.compile(module, example_input, target="x86-avx512")
    artifact.save("net.so")
    tvm_sched.load("net.so")(x)  # NumPy or torch in and out

Names are imported on first use, so that `import tvm_sched` costs nothing; docs/architecture.md shows the folders.
"""

import importlib
from typing import Any

from tvm_sched import runtime  # at once: it sets up TVM's threads

_HOME = {
    "Artifact": "tvm_sched.deploy.artifact",
    "CheckFailed": "subp_contract.errors",
    "CheckWarning": "subp_contract.errors",
    "Error": "subp_contract.errors",
    "UserError": "subp_contract.errors",
    "compile": "tvm_sched.compiler",
    "load": "tvm_sched.deploy.artifact",
    "quantize": "tvm_sched.frontend.calibration",
    "tune": "tvm_sched.tuning.search",
}

__all__ = ["runtime", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from subp_contract.distribution import VERSION

        return VERSION
    if name not in _HOME:
        raise AttributeError(f"module 'tvm_sched' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
