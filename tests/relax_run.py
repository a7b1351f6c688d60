"""Relax modules imported from PyTorch and run as they are, for tests of passes."""

import numpy as np
import torch
import tvm
from tvm import IRModule, relax

from tvm_sched import pipeline
from tvm_sched.frontend import torch_export

PLAIN = tvm.target.Target({"kind": "llvm", "opt-level": 0})  # built in half the time; numbers are what counts here


def imported(network: torch.nn.Module, x: torch.Tensor) -> IRModule:
    """The network as the passes get it: simplified, constants folded."""
    with tvm.target.Target("llvm"):
        return pipeline.SIMPLIFY(torch_export.from_torch(network.eval(), x).mod)


def run(mod: IRModule, x: torch.Tensor):
    """The module's output (or outputs) as NumPy arrays, by TVM's own lowering."""
    # Tests of arguments are left out: they are most of a small function's code.
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        executable = tvm.compile(mod, target=PLAIN)
    output = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x.numpy()))
    return output.numpy() if hasattr(output, "numpy") else tuple(each.numpy() for each in output)


def expect_equal(mod: IRModule, network: torch.nn.Module, x: torch.Tensor, atol: float = 1e-5):
    """The module computes what the network does, in every output."""
    with torch.no_grad():
        expected = network(x)
    outputs, expected = ([each] if not isinstance(each, tuple) else each for each in (run(mod, x), expected))
    for output, want in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, want.numpy(), rtol=0, atol=atol)


def operators(mod: IRModule) -> list[str]:
    """Names of the Relax operators that 'main' calls, in order."""
    values = (binding.value for block in mod["main"].body.blocks for binding in block.bindings)
    return [value.op.name.removeprefix("relax.") for value in values if isinstance(value, relax.Call)]
