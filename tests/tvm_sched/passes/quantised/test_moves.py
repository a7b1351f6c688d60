"""What is only moved stays in 8 bits."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax import op as rx

from tvm_sched.passes.quantised.moves import move_in_8_bits

SCALE, ZERO = 0.05, 3


def dequantized(builder, q, scale=SCALE, zero=ZERO):
    return builder.emit(rx.dequantize(q, relax.const(scale, "float32"), relax.const(zero, "int32")))


def quantized(builder, x, scale=SCALE, zero=ZERO):
    return builder.emit(rx.quantize(x, relax.const(scale, "float32"), relax.const(zero, "int32"), out_dtype="uint8"))


def moved(make, shape=(1, 4, 6, 6), inputs=2):
    """(operators of 'main' after the pass, the results before and after it) for `make(builder, dequantized inputs)`."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"q{i}", relax.TensorType(list(shape), "uint8")) for i in range(inputs)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(make(builder, *(dequantized(builder, each) for each in params)))
        builder.emit_func_output(result)
    before = builder.finalize()
    after = move_in_8_bits(before)
    values = [each.value for block in after["main"].body.blocks for each in block.bindings]
    names = [value.op.name.removeprefix("relax.") for value in values if isinstance(value, relax.Call)]
    generator = np.random.default_rng(0)
    arrays = [tvm.runtime.tensor(generator.integers(0, 256, shape, "uint8")) for _ in params]
    outputs = [
        relax.VirtualMachine(tvm.compile(mod, "llvm"), tvm.cpu())["main"](*arrays).numpy() for mod in (before, after)
    ]
    return names, *outputs


def shuffle(builder, x, _):
    x = builder.emit(rx.reshape(x, [1, 2, 2, 6, 6]))
    x = builder.emit(rx.permute_dims(x, [0, 2, 1, 3, 4]))
    return quantized(builder, builder.emit(rx.reshape(x, [1, 4, 6, 6])))


def join(builder, x, y):
    x = builder.emit(rx.concat([x, y], 1))
    return quantized(builder, builder.emit(rx.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1], "constant", 0.0)))


def pool(builder, x, _):
    return quantized(builder, builder.emit(rx.nn.max_pool2d(x, [3, 3], padding=[1, 1, 1, 1])))


def part(builder, x, _):
    halves = builder.emit(rx.split(x, 2, 1))
    return quantized(builder, builder.emit(relax.TupleGetItem(halves, 1)))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (shuffle, ["reshape", "permute_dims", "reshape"]),
        (join, ["concat", "nn.pad"]),
        (pool, ["nn.max_pool2d"]),
        (part, ["split"]),
    ],
)
def test_moves_take_8_bits(make, names):
    made, before, after = moved(make)
    assert made == names
    np.testing.assert_array_equal(after, before)


def test_another_scale_is_quantised_anew():
    names, before, after = moved(lambda builder, x, _: quantized(builder, builder.emit(rx.reshape(x, [4, 36])), 0.06))
    assert names == ["dequantize", "reshape", "quantize"]
    np.testing.assert_array_equal(after, before)


def test_a_value_is_dequantised_once():
    def make(builder, x, _):
        q = quantized(builder, builder.emit(rx.negative(x)))
        return builder.emit(rx.add(dequantized(builder, q), dequantized(builder, q)))

    names, before, after = moved(make)
    assert names == ["dequantize", "negative", "quantize", "dequantize", "add"]
    np.testing.assert_array_equal(after, before)


def test_what_is_computed_stays_in_float32():
    names, *_ = moved(lambda builder, x, y: quantized(builder, builder.emit(rx.add(x, y))))
    assert names == ["dequantize", "dequantize", "add", "quantize"]
