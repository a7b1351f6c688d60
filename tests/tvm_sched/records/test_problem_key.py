"""What tells a kernel's problem for records, of functions whose annotations hold names too."""

import json
from dataclasses import replace

from integer_run import TARGETS, Convolution, function_of

from tvm_sched.records.problem_key import problem_key


def test_a_kernel_of_integers_has_a_key_by_its_problem_alone():
    """Its dot product is an annotation that is text."""
    case, target = Convolution(8, 16, (8, 8), (1, 1)), TARGETS["x86-avx2"]
    key = problem_key(function_of(case, target).mod["main"])
    ((block, told),), _, dtypes = json.loads(key)
    assert block == "planar_conv2d" and dict(told)["planar.dot"] == "madd"
    assert dtypes[:2] == ["uint8", "int16"]
    assert problem_key(function_of(replace(case, seed=1), target).mod["main"]) == key
    assert problem_key(function_of(replace(case, image=(8, 9)), target).mod["main"]) != key
