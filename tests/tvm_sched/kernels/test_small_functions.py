"""Small functions of every kind of data, through all phases, against NumPy: whatever Relax lowers gets a schedule that
computes the same, and none is left to plain loops.
"""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op as rx

from tvm_sched import pipeline, targets
from tvm_sched.passes.graph.hoist_constants import PREPARE
from tvm_sched.passes.graph.relax_tools import constant
from tvm_sched.passes.tir.schedule_functions import PLAIN
from tvm_sched.pipeline import Compilation

ONE_CORE = replace(targets.host(), cores=1)
FLOATS, WHOLE = ("float32", "float64", "float16"), ("int64", "int32", "uint8")
MATRICES = [(5, 33), (300, 65), (1, 1)]


def compiled(make, arrays) -> tuple[np.ndarray, ...]:
    """What `make`, a function from a builder and Relax variables to an expression, computes of the arrays once it is
    compiled.
    """
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(x.shape, str(x.dtype))) for i, x in enumerate(arrays)]
    with builder.function("main", params):
        with builder.dataflow():
            output = builder.emit_output(builder.normalize(make(builder, *params)))
        builder.emit_func_output(output)
    compilation = Compilation(ONE_CORE)
    mod = pipeline.run((*pipeline.FUSING, *pipeline.SCHEDULING), builder.finalize(), compilation)
    assert not [words for words in compilation.schedules.values() if words.startswith(PLAIN)]
    machine = relax.VirtualMachine(pipeline.build(mod, compilation), tvm.cpu())
    prepared = machine[PREPARE]() if PREPARE in {var.name_hint for var in mod.get_global_vars()} else ()
    made = machine["main"](*map(tvm.runtime.tensor, arrays), *prepared)
    return (made.numpy(),) if hasattr(made, "numpy") else tuple(each.numpy() for each in made)


def random(shape, dtype, seed=0) -> np.ndarray:
    """Standard normal numbers; whole ones from 0 to 4."""
    generator = np.random.default_rng(seed)
    if dtype == "bool":
        return generator.random(shape) < 0.5
    return (generator.integers(0, 5, shape) if "int" in dtype else generator.standard_normal(shape)).astype(dtype)


def check(make, reference, *arrays):
    """Compares values and shapes."""
    expected = reference(*arrays)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for made, want in zip(compiled(make, arrays), expected, strict=True):
        tolerance = 2e-2 if made.dtype == np.float16 else 1e-5
        np.testing.assert_allclose(made, want, rtol=tolerance, atol=tolerance, strict=False)
        assert made.shape == np.shape(want)


def emitted(builder, *steps):
    """The last of the expressions that the steps make, each of the one before."""
    value = steps[0]
    for step in steps[1:]:
        value = step(builder.emit(value))
    return value


@pytest.mark.parametrize("dtype", [*FLOATS, *WHOLE])
@pytest.mark.parametrize("shape", [(5, 33), (300, 65), (1,), (), (4, 0)])
def test_arithmetic_of_every_rank(shape, dtype):
    x, y = random(shape, dtype), random(shape, dtype, seed=1)
    check(lambda builder, x, y: rx.add(builder.emit(rx.multiply(x, y)), x), lambda x, y: x * y + x, x, y)


REDUCTIONS = {
    "sum": (lambda x, axis: rx.sum(x, axis), lambda x, axis: x.sum(axis, dtype=x.dtype)),
    "max": (lambda x, axis: rx.max(x, axis), lambda x, axis: x.max(axis)),
    "prod": (lambda x, axis: rx.prod(x, axis), lambda x, axis: x.prod(axis, dtype=x.dtype)),
    "argmax": (lambda x, axis: rx.argmax(x, axis), lambda x, axis: x.argmax(axis)),
    "cumsum": (
        lambda x, axis: rx.cumsum(x, axis, dtype=x.ty.dtype),
        lambda x, axis: x.cumsum(axis, dtype=x.dtype),
    ),
    "sort": (lambda x, axis: rx.sort(x, axis), lambda x, axis: np.sort(x, axis)),
    "flip": (lambda x, axis: rx.flip(x, axis), lambda x, axis: np.flip(x, axis)),
}


@pytest.mark.parametrize(
    ("dtype", "axis"), [("float32", 0), ("float32", 1), ("float64", 1), ("int64", 0), ("int32", 1)]
)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_along_an_axis(name, dtype, axis):
    ours, reference = REDUCTIONS[name]
    for shape in MATRICES:
        check(lambda _, x: ours(x, axis), lambda x: reference(x, axis), random(shape, dtype))


WHOLE_TENSOR = {
    "mean": (lambda builder, x: rx.mean(x), lambda x: x.mean()),
    "variance": (lambda builder, x: rx.variance(x), lambda x: x.var()),
    "deviation, kept": (lambda builder, x: rx.std(x, keepdims=True), lambda x: x.std(keepdims=True)),
    "centred": (
        lambda builder, x: rx.subtract(x, builder.emit(rx.mean(x, keepdims=True))),
        lambda x: x - x.mean(keepdims=True),
    ),
    "two results": (
        lambda builder, x: relax.Tuple([builder.emit(rx.sum(x, axis=-1)), builder.emit(rx.max(x, axis=0))]),
        lambda x: (x.sum(-1), x.max(0)),
    ),
}


@pytest.mark.parametrize("shape", [(5, 33), (3, 1000), (2, 3, 17, 20), (7,), (1, 1)])
@pytest.mark.parametrize("name", WHOLE_TENSOR)
def test_of_a_whole_tensor(name, shape):
    check(*WHOLE_TENSOR[name], random(shape, "float32"))


MOVES = {
    "concat of mirrors": (
        lambda builder, x, y: rx.concat([builder.emit(rx.flip(x, 1)), y, x], 1),
        lambda x, y: np.concatenate([x[:, ::-1], y, x], 1),
    ),
    "concat of transposes": (
        lambda builder, x, _: rx.concat([builder.emit(rx.permute_dims(x)), builder.emit(rx.permute_dims(x))], 0),
        lambda x, _: np.concatenate([x.T, x.T], 0),
    ),
    "backwards": (
        lambda builder, x, _: rx.strided_slice(x, [0, 1], [4, 32], [-10, 0], [-2, -3]),
        lambda x, _: x[4::-2, 32:0:-3],
    ),
    "constant positions from the end": (
        lambda builder, x, _: rx.take(x, constant(np.array([1, -1, 3])), axis=1),
        lambda x, _: x[:, [1, -1, 3]],
    ),
    "reshaped": (
        lambda builder, x, _: emitted(builder, rx.permute_dims(x), lambda x: rx.reshape(x, (3, 11, 5))),
        lambda x, _: x.T.reshape(3, 11, 5),
    ),
    "tiled": (lambda builder, x, _: rx.tile(x, [2, 3]), lambda x, _: np.tile(x, [2, 3])),
    "an empty piece": (
        lambda builder, x, y: rx.concat([builder.emit(rx.strided_slice(y, [1], [0], [0])), x], 1),
        lambda x, y: x,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("name", MOVES)
def test_movements_of_data(name, dtype):
    check(*MOVES[name], random((5, 33), dtype), random((5, 7), dtype, seed=1))


INDEXED = {
    "take": (lambda builder, x, i, u: rx.take(x, i, axis=1, mode="clip"), lambda x, i, u: x[:, i]),
    "gather_nd": (
        lambda builder, x, i, u: rx.gather_nd(x, builder.emit(rx.astype(builder.emit(rx.reshape(i, (4, 1))), "int64"))),
        lambda x, i, u: x[i],
    ),
    "scatter": (
        lambda builder, x, i, u: rx.scatter_nd(x, builder.emit(rx.reshape(i, (4, 1))), u, "update"),
        lambda x, i, u: np.concatenate([u, x[4:]]),
    ),
    "where, scalar": (
        lambda builder, x, i, u: rx.where(builder.emit(rx.greater(x, constant(np.zeros((), str(x.ty.dtype))))), x, x),
        lambda x, i, u: x,
    ),
}


@pytest.mark.parametrize("positions", ["int64", "int32"])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
@pytest.mark.parametrize("name", INDEXED)
def test_positions_that_are_given(name, dtype, positions):
    check(*INDEXED[name], random((9, 33), dtype), np.arange(4).astype(positions), random((4, 33), dtype, seed=1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
@pytest.mark.parametrize("shapes", [((5, 33), (33, 20)), ((2, 5, 33), (2, 33, 20)), ((33,), (33, 20)), ((33,), (33,))])
def test_products(shapes, dtype):
    check(lambda builder, x, y: rx.matmul(x, y), np.matmul, *(random(shape, dtype) for shape in shapes))


def test_a_masked_softmax_has_zeros_where_the_mask_is():
    mask = np.where(np.tril(np.ones((7, 7), bool)), 0, -np.inf).astype("float32")

    def softmax(x):
        e = np.exp(x + mask)
        return e / e.sum(-1, keepdims=True)

    x = random((4, 7, 7), "float32")
    check(lambda builder, x: rx.nn.softmax(builder.emit(rx.add(x, constant(mask)))), softmax, x)
    (made,) = compiled(lambda builder, x: rx.nn.softmax(builder.emit(rx.add(x, constant(mask)))), [x])
    assert (made[:, np.isinf(mask)] == 0).all()


@pytest.mark.parametrize("step", ["gated", "shifted"])
def test_a_long_chain_does_not_grow_without_end(step):
    """Each of twelve steps reads the one before twice: inlined, the first would be computed 4096 times."""

    def gated(x):
        return x / (1 + np.exp(-x)) + 1

    def shifted(x):
        return x * np.float32(0.5) + x[:, ::-1]

    def ours(builder, x):
        one, half = (constant(np.array(value, "float32")) for value in (1, 0.5))
        for _ in range(12):
            if step == "gated":
                x = builder.emit(rx.add(builder.emit(rx.multiply(x, builder.emit(rx.sigmoid(x)))), one))
            else:
                x = builder.emit(rx.add(builder.emit(rx.multiply(x, half)), builder.emit(rx.flip(x, 1))))
        return x

    def reference(x):
        for _ in range(12):
            x = gated(x) if step == "gated" else shifted(x)
        return x

    check(ours, reference, random((5, 33), "float32"))
