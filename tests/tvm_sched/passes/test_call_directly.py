"""A network's steps as functions that call the kernels: nothing is lost between them, whatever else 'main' holds."""

import numpy as np
import pytest
import torch
import tvm
from torch import nn
from tvm import IRModule, relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from tvm_sched import codegen, pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.passes.graph.call_directly import call_directly
from tvm_sched.passes.tir.marks import DIRECT, INTERNAL
from tvm_sched.pipeline import Compilation

X = np.arange(64, dtype="float32")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 8)).eval()


def lowered(mod: IRModule) -> IRModule:
    """Calls of TIR functions as the virtual machine's, memory planned."""
    with targets.host().tvm():
        return relax.get_pipeline("default_build")(relax.transform.LegalizeOps()(mod))


@pytest.fixture(scope="module")
def direct() -> IRModule:
    imported = torch_export.from_torch(network(), torch.zeros(1, 16, 8, 8))
    compilation = Compilation(targets.host())
    return pipeline.run(pipeline.BUILDING, pipeline.lower(imported, compilation).mod, compilation)


def test_the_virtual_machine_makes_two_calls_and_only_the_first_tests_its_arguments(direct):
    called = [
        binding.value.op.name_hint
        for block in direct["main"].body.blocks
        for binding in block.bindings
        if isinstance(getattr(binding.value, "op", None), tvm.ir.GlobalVar)
    ]
    assert called == ["main_inputs", "main_steps"]
    functions = {var.name_hint: func for var, func in direct.functions.items() if isinstance(func, PrimFunc)}
    tested = [name for name, func in functions.items() if not (func.attrs.get(INTERNAL) or func.attrs.get(DIRECT))]
    assert tested == ["main_inputs"]


@pytest.mark.parametrize("x", [np.zeros((1, 16, 8, 9), "float32"), np.zeros((1, 16, 8, 8), "float64")])
def test_an_input_that_code_is_not_made_for_is_refused(x):
    imported = torch_export.from_torch(nn.Conv2d(16, 16, 1).eval(), torch.zeros(1, 16, 8, 8))
    built = pipeline.build_network(imported, Compilation(targets.host()))
    with pytest.raises((TypeError, ValueError), match="main_inputs"):
        relax.VirtualMachine(built.executable, tvm.cpu())["main"](tvm.runtime.tensor(x))


def around_a_builtin() -> IRModule:
    """A builtin of the machine's between two kernels; the first is called in its own right, and by a subroutine."""

    @I.ir_module
    class Between:
        @T.prim_func(private=True, s_tir=True)
        def twice(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
            for i in range(64):
                with T.sblock("y"):
                    v = T.axis.spatial(64, i)
                    y[v] = x[v] * T.float32(2)

        @R.function(private=True)
        def other(x: R.Tensor((64,), "float32")) -> R.Tensor((64,), "float32"):
            cls = Between
            y = R.call_tir(cls.twice, (x,), out_ty=R.Tensor((64,), "float32"))
            return y

        @R.function
        def main(x: R.Tensor((64,), "float32")):
            cls = Between
            with R.dataflow():
                a = R.call_tir(cls.twice, (x,), out_ty=R.Tensor((64,), "float32"))
                b = R.call_tir(cls.twice, (a,), out_ty=R.Tensor((64,), "float32"))
                c: R.Tensor((64,), "float32") = cls.other(b)
                d = R.call_tir(cls.twice, (c,), out_ty=R.Tensor((64,), "float32"))
                e = R.reshape(d, (8, 8))
                R.output(b, e)
            return (b, e, x)

    return Between


@pytest.fixture(scope="module")
def between() -> relax.VirtualMachine:
    mod, steps = call_directly(lowered(around_a_builtin()))
    assert steps["main"] == [["twice", "twice"], ["twice", "reshape"]]
    return relax.VirtualMachine(codegen.build(mod, targets.host()), tvm.cpu())


def test_what_is_no_kernel_stays_the_virtual_machines_and_divides_the_calls(between):
    once, last, given = (each.numpy() for each in between["main"](tvm.runtime.tensor(X)))
    np.testing.assert_array_equal(once, 4 * X)
    np.testing.assert_array_equal(last, 16 * X.reshape(8, 8))
    np.testing.assert_array_equal(given, X)


def test_times_are_told_before_each_step_and_after_the_last_of_each_run(between):
    times = tvm.runtime.tensor(np.zeros((6, 2), "int64"))
    once, *_ = between["main_timed"](tvm.runtime.tensor(X), times)
    np.testing.assert_array_equal(once.numpy(), 4 * X)
    told = times.numpy() @ (10**9, 1)
    assert told[0] > 0 and (np.diff(told) >= 0).all()
