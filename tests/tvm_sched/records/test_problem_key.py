"""What tells a kernel's problem, whatever its code is."""

import json

import pytest
import tvm
from tvm import tirx
from tvm.script import tirx as T

from tvm_sched.records.problem_key import problem_key


def summing(begun: float, named: str, extent: int = 4):
    """A function whose block has annotations of every kind that kernels write."""

    @T.prim_func(s_tir=True)
    def func(x: T.Buffer((extent, 8), "uint8"), scale: T.Buffer((8,), "float32"), y: T.Buffer((extent,), "int32")):
        for i, k in T.grid(extent, 8):
            with T.sblock("products"):
                v_i, v_k = T.axis.remap("SR", [i, k])
                T.sblock_attr(
                    {"work.n": 16, "work.kernel": [1, 3], "work.padded": True, "dot": named, "subp.layer": "a"}
                )
                with T.init():
                    y[v_i] = T.int32(begun)
                y[v_i] = y[v_i] + T.cast(x[v_i, v_k], "int32")

    return func


def test_it_tells_annotations_shapes_and_types_of_a_function_read_from_a_file_too():
    told = [["dot", "vnni"], ["work.kernel", [1, 3]], ["work.n", 16], ["work.padded", 1]]
    expected = [[["products", told]], [[4, 8], [4]], ["uint8", "float32", "int32"]]
    func = summing(0, "vnni")
    assert json.loads(problem_key(func)) == expected
    assert problem_key(tvm.ir.load_json(tvm.ir.save_json(func))) == problem_key(func)


@pytest.mark.parametrize(
    ("other", "same"), [(summing(1, "vnni"), True), (summing(0, "dot"), False), (summing(0, "vnni", 5), False)]
)
def test_other_code_is_the_same_problem_and_others_are_not(other, same):
    assert (problem_key(other) == problem_key(summing(0, "vnni"))) == same


def test_a_function_without_annotations_has_none():
    x = tirx.decl_buffer((4,), "float32", "x")
    assert problem_key(tirx.PrimFunc([x], tirx.Evaluate(0))) == ""
