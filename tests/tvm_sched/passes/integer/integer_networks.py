"""Writes quantised networks, and holds what our integer kernels compute of them against the same network in float32, by
TVM's own operators.

A sum of float32 products may lie a hair beside what one multiply-add of the same sum of integers gives; where that is
halfway between two whole numbers, both of these are right. So what is compared is the float32 value before it is
quantised, which must round to what was found within a thousandth of a step.
"""

from dataclasses import dataclass, replace

import numpy as np
import relax_run
import torch
import tvm
from tvm import IRModule, relax, te
from tvm.relax import op as rx
from zeros import keep_blocks

from tvm_sched import pipeline, targets
from tvm_sched.passes.graph.layer_names import emit_layer
from tvm_sched.passes.graph.pointwise import POINTWISE
from tvm_sched.passes.graph.relax_tools import constant, shape_of
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.planning.plan import FREE, Restrictions

HOST, A76 = (replace(targets.get(name), cores=1) for name in ("host", "cortex-a76"))
TIE = 1e-3  # of a step
SHAPE = (2, 8, 9, 9)
LAST = (0.05, 100)  # scale and zero point of a network's result


class Network:
    """Writes 'main'. Scales are such that values spread over the range that 8 bits have."""

    def __init__(self, signed: bool = False):
        self.builder, self.rng = relax.BlockBuilder(), np.random.default_rng(0)
        self.dtype, self.moved = ("int8", -128) if signed else ("uint8", 0)
        self.layers = 0

    def emit(self, call: relax.Expr) -> relax.Var:
        return self.builder.emit(call)

    def stored(self, x: relax.Expr, scale: float = 0.05, zero_point: int = 100) -> relax.Var:
        """A value in 8 bits."""
        zero_point += self.moved
        return self.emit(rx.quantize(x, relax.const(scale, "float32"), relax.const(zero_point), out_dtype=self.dtype))

    def fraction(self, q: relax.Expr, scale: float = 0.05, zero_point: int = 100) -> relax.Var:
        """What 8 bits stand for."""
        return self.emit(rx.dequantize(q, relax.const(scale, "float32"), relax.const(zero_point + self.moved)))

    def through(self, x: relax.Expr, scale: float = 0.05, zero_point: int = 100) -> relax.Var:
        """A value quantised and dequantised."""
        return self.fraction(self.stored(x, scale, zero_point), scale, zero_point)

    def weight(self, *shape: int, each: bool = True, zero_point: int = 0, kept: int | None = None) -> relax.Var:
        """A dequantised constant, whose products are of unit scale."""
        array = self.rng.integers(-127, 127, shape, "int8", endpoint=True)
        array = array if kept is None else keep_blocks(array, 16, kept, 0)
        scale = self.rng.uniform(0.5, 1, shape[0] if each else 1).astype("float32") * np.float32(
            1 / 74 / np.sqrt(array[0].size)
        )
        zeros = np.full(len(scale), zero_point, "int32")
        parameters = map(constant, (scale, zeros) if each else (scale[0], zeros[0]))
        return self.emit(rx.dequantize(constant(array), *parameters, axis=0))

    def convolution(self, x: relax.Expr, out: int = 16, taps: int = 3, bias: bool = True, groups: int = 1, **weight):
        """A layer that leaves the image's size as it is."""
        self.layers += 1
        w = self.weight(out, shape_of(x)[1] // groups, taps, taps, **weight)
        made = emit_layer(self.builder, rx.nn.conv2d(x, w, padding=taps // 2, groups=groups), f"layer{self.layers}")
        return self.emit(rx.add(made, self.numbers(1, out, 1, 1))) if bias else made

    def linear(self, x: relax.Expr, out: int, kept: int | None = None) -> relax.Var:
        """A layer on the last axis, of which 1x16 blocks keep so many channels."""
        self.layers += 1
        w = self.emit(rx.permute_dims(self.weight(out, shape_of(x)[-1], kept=kept), [1, 0]))
        made = emit_layer(self.builder, rx.matmul(x, w), f"layer{self.layers}")
        return self.emit(rx.add(made, self.numbers(out)))

    def pointwise(self, element, x: relax.Expr) -> relax.Var:
        """A function of elements, as the front ends write it."""
        call = self.builder.call_te(lambda x: te.compute(x.shape, lambda *at: element(x(*at)), name="own"), x)
        made = self.builder.get()[call.args[0]].with_attr(POINTWISE, True)
        self.builder.update_func(call.args[0], made)
        return self.emit(call)

    def numbers(self, *shape: int) -> relax.Expr:
        """Normal constants."""
        return constant(self.rng.standard_normal(shape, "float32"))

    def function(self, make, last: tuple[float, int] | None = LAST) -> IRModule:
        """'main' with what `make` answers, quantised by this scale and zero point or not, as its result."""
        x = relax.Var("x", relax.TensorType(SHAPE, "float32"))
        with self.builder.function("main", [x]):
            with self.builder.dataflow():
                y = make(self, self.through(x, 0.03, 120))
                result = self.builder.emit_output(self.stored(y, *last) if last else y)
            self.builder.emit_func_output(result)
        return self.builder.finalize()


@dataclass
class Compiled:
    """What a network gives, and how its layers were computed."""

    result: np.ndarray
    layers: list[LayerChoice]
    operators: list[str]  # of the network after the pass

    @property
    def kernels(self) -> list[str]:
        return [choice.kernel.split()[0] for choice in self.layers]


def compiled(mod: IRModule, target: targets.Target, x: np.ndarray, restrictions: Restrictions = FREE) -> Compiled:
    """By all phases, in this machine's instructions."""
    seen = {}
    compilation = Compilation(target, observe=seen.setdefault, restrictions=restrictions)
    lowered = pipeline.run((*pipeline.FUSING, pipeline.SCHEDULING[0]), mod, compilation)
    here = target if targets.runs_here(target) else targets.on_this_machine(target)
    executable = pipeline.build(lowered, replace(compilation, target=here, observe=None))
    result = relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()
    bindings = [each.value for block in seen["integer_layers"]["main"].body.blocks for each in block.bindings]
    operators = [each.op.name.removeprefix("relax.") for each in bindings if isinstance(each, relax.Call)]
    return Compiled(result, list(compilation.choices.values()), operators)


def in_float32(mod: IRModule, x: np.ndarray) -> np.ndarray:
    """By TVM's own operators and plain loops."""
    with HOST.tvm():
        fused = pipeline.FUSE(pipeline.SIMPLIFY(mod))
    return relax_run.run(fused, torch.from_numpy(x))


def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE, "float32") * 1.5


def check(make, target=HOST, signed=False, stored=True, restrictions=FREE, tie=TIE, last=LAST) -> Compiled:
    """Compiles it and compares; what was compiled. `last`: scale and zero point of the result."""
    want = in_float32(Network(signed).function(make, None), x()).astype("float64")
    made = compiled(Network(signed).function(make, last if stored else None), target, x(), restrictions)
    if not stored:
        np.testing.assert_allclose(made.result, want, rtol=1e-5, atol=1e-5)
        return made
    assert str(made.result.dtype) == ("int8" if signed else "uint8")
    limits = np.iinfo(made.result.dtype)
    scale, zero_point = last
    steps = np.clip(want / scale + zero_point + (-128 if signed else 0), limits.min, limits.max)
    assert np.std(steps) > 5  # that it says something
    assert abs(made.result - steps).max() <= 0.5 + tie
    return made
