"""The main loop of each kernel on a target, for the block sizes, kernel sizes and strides that it names as its
examples: 28x28 pixels, 128 channels in and out.

What is looked at is the machine code of the tile that compiles by default. Sparse layers keep a quarter of their
blocks.
"""

from dataclasses import dataclass, replace

import numpy as np
from tvm import IRModule, relax

from tvm_sched.estimation import machine_model
from tvm_sched.estimation.machine_model import Loop
from tvm_sched.kernels import KERNELS, Kernel, kernel_of
from tvm_sched.kernels.base import Example, Form
from tvm_sched.kernels.layer import Layer
from tvm_sched.passes.graph.relax_tools import constant
from tvm_sched.passes.graph.share_functions import share_functions
from tvm_sched.pipeline import FOR_SCHEDULES
from tvm_sched.records.database import workload
from tvm_sched.targets import Target

SIZE, CHANNELS, DENSITY = 28, 128, 0.25


@dataclass(frozen=True)
class Case:
    """One kernel with one of its examples."""

    kernel: Kernel
    example: Example

    def __str__(self):
        return f"{self.kernel.name} {self.example}"


CASES = [Case(kernel, example) for kernel in KERNELS for example in kernel.examples]


def example_layer(example: Example, dtype: str = "float32") -> Layer:
    """A layer as the example says, of that type; depthwise where its blocks have one channel."""
    inputs = 1 if example.n == 1 else CHANNELS
    weight = np.ones((CHANNELS, inputs, example.size, example.size), dtype)
    if example.sparse:
        rows = CHANNELS // example.n
        kept = np.stack([np.random.default_rng(row).permutation(CHANNELS) < DENSITY * CHANNELS for row in range(rows)])
        weight *= kept.repeat(example.n, axis=0)[:, :, None, None]
    strides, around = (example.stride, example.stride), (example.size // 2,) * 4
    groups = CHANNELS if example.n == 1 else 1
    return Layer("example", weight, (1, SIZE, SIZE, CHANNELS), CHANNELS, groups, strides, around, dtype=dtype)


def form_of(case: Case, target: Target, dtype: str = "float32") -> Form:
    """The kernel's cheapest form for the example's layer of that type, in blocks of the example's size."""
    forms = case.kernel.forms(example_layer(case.example, dtype), target.of_dtype(dtype))
    return min((form for form in forms if form.n in (None, case.example.n)), key=lambda form: form.cycles)


def function_of(form: Form) -> IRModule:
    """A form as a function 'main' of its own, not scheduled."""
    layer, builder = form.layer, relax.BlockBuilder()
    size = SIZE * layer.stride[0]
    x = relax.Var("x", relax.TensorType((1, size, size, CHANNELS), layer.dtype))
    weights = [constant(array) for array in form.kernel.pack(form)]
    with builder.function("main", [x]):
        with builder.dataflow():
            call = form.kernel.call(builder, x, weights, form, form.kernel.marked("example"))
            result = builder.emit_output(call)
        builder.emit_func_output(result)
    functions = FOR_SCHEDULES(share_functions(builder.finalize())).functions.values()
    (func,) = [each for each in functions if not isinstance(each, relax.Function) and kernel_of(each)]
    return workload(func)


def of(case: Case, target: Target, dtype: str = "float32") -> tuple[object, Loop | None]:
    """(default tile, main loop) of a case of that type for one thread; no loop where the tile needs none."""
    target = replace(target, cores=1).of_dtype(dtype)
    form = form_of(case, target, dtype)
    tile = case.kernel.tiles(form.problem, target)[0]
    return tile, machine_model.main_loop_of(case.kernel, function_of(form), tile, target)
