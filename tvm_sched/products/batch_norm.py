"""Batch norm in training, a channel after the other: all images' pixels of one stay in the caches between the passes
over them, and threads share channels.

    forward   (x [B, C, *], weight [C], bias [C], eps, y, mean [C], variance [C])
              mean and (biased) variance over images and pixels; y = (x - mean) / sqrt(variance + eps) * weight + bias
    backward  (x, dy, weight, mean, inverse [C], dx, dweight [C], dbias [C])      inverse = 1 / sqrt(variance + eps)
              dbias = sum dy; dweight = sum dy * x', x' = (x - mean) * inverse;
              dx = weight * inverse * (dy - dbias / n - x' * dweight / n), n = B * pixels

(Ioffe and Szegedy, arXiv 1502.03167.) The variance is summed of what is left when the mean has been taken off.
"""

from collections.abc import Callable

from tvm import IRModule, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tvm_sched.products.emit import Vectors, argument, loop, memory, module, shared
from tvm_sched.products.problem import BYTES, Norm
from tvm_sched.targets import Target

FORWARD, BACKWARD = "batch_norm", "batch_norm_backward"
TOGETHER = 8  # vectors of partial sums: a multiply-add need not wait for the one before


def forward(norm: Norm, _tile: None, target: Target, _threads: int) -> IRModule:
    """The function of FORWARD."""
    vectors = _vectors(norm, target)

    def body() -> None:
        x, weight, bias = (argument(name, norm.dtype) for name in ("x", "weight", "bias"))
        eps = T.arg("eps", T.float64()).astype(norm.dtype)
        y, mean, variance = (argument(name, norm.dtype) for name in ("y", "mean", "variance"))
        with shared(norm.channels) as channel:
            sums = memory("sums", 3, norm.dtype, "local")
            (total,) = _sums(norm, vectors, channel, [x], lambda pixel: [pixel])
            T.buffer_store(sums, total / _count(norm), [0])

            def rest(pixel: Expr) -> Expr:
                return pixel - _like(pixel, sums[0])

            # The mean of the rest is what rounding took from the mean.
            left, squares = _sums(norm, vectors, channel, [x], lambda pixel: [rest(pixel), _square(rest(pixel))])
            T.buffer_store(sums, left / _count(norm), [1])
            T.buffer_store(sums, squares / _count(norm) - _square(sums[1]), [2])
            T.buffer_store(mean, sums[0] + sums[1], [channel])
            T.buffer_store(variance, sums[2], [channel])
            factors = memory("factors", 2, norm.dtype, "local")
            T.buffer_store(factors, weight[channel] / tirx.sqrt(sums[2] + eps), [0])
            T.buffer_store(factors, bias[channel] - sums[1] * factors[0], [1])

            def scaled(pixel: Expr) -> Expr:
                return rest(pixel) * _like(pixel, factors[0]) + _like(pixel, factors[1])

            _each(norm, vectors, channel, [x], y, scaled)

    return module(FORWARD, body)


def backward(norm: Norm, _tile: None, target: Target, _threads: int) -> IRModule:
    """The function of BACKWARD."""
    vectors = _vectors(norm, target)

    def body() -> None:
        x, dy, weight, mean, inverse = (argument(name, norm.dtype) for name in ("x", "dy", "weight", "mean", "inverse"))
        dx, dweight, dbias = (argument(name, norm.dtype) for name in ("dx", "dweight", "dbias"))
        with shared(norm.channels) as channel:
            middle = mean[channel]

            def terms(pixel: Expr, gradient: Expr) -> list[Expr]:
                return [gradient, gradient * (pixel - _like(pixel, middle))]

            plain, weighted = _sums(norm, vectors, channel, [x, dy], terms)
            sums = memory("sums", 2, norm.dtype, "local")
            T.buffer_store(sums, plain, [0])
            T.buffer_store(sums, weighted * inverse[channel], [1])
            T.buffer_store(dbias, sums[0], [channel])
            T.buffer_store(dweight, sums[1], [channel])
            # dx = a * dy + b * (x - mean) + c
            factors = memory("factors", 3, norm.dtype, "local")
            T.buffer_store(factors, weight[channel] * inverse[channel], [0])
            T.buffer_store(factors, -factors[0] * inverse[channel] * sums[1] / _count(norm), [1])
            T.buffer_store(factors, -factors[0] * sums[0] / _count(norm), [2])

            def gradient_of(pixel: Expr, gradient: Expr) -> Expr:
                a, b, c = (_like(pixel, factors[i]) for i in range(3))
                return gradient * a + ((pixel - _like(pixel, middle)) * b + c)

            _each(norm, vectors, channel, [x, dy], dx, gradient_of)

    return module(BACKWARD, body)


def _vectors(norm: Norm, target: Target) -> Vectors:
    return Vectors(target.lanes * BYTES["float32"] // BYTES[norm.dtype], norm.dtype)


def _count(norm: Norm) -> Expr:
    return tirx.const(norm.batch * norm.pixels, norm.dtype)


def _square(value: Expr) -> Expr:
    return value * value


def _like(value: Expr, scalar: Expr) -> Expr:
    """The scalar in as many lanes as the value has."""
    lanes = value.ty.dtype.lanes
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def _sums(
    norm: Norm, vectors: Vectors, channel: Expr, tensors: list[Buffer], terms: Callable[..., list[Expr]]
) -> list[Expr]:
    """Over all images and pixels of the channel, the sums of what `terms` makes of the tensors' numbers."""
    lanes = vectors.lanes
    whole, rest = divmod(norm.pixels, lanes)
    steps, single = divmod(whole, TOGETHER)
    count = len(terms(*(vectors.zero for _ in tensors)))
    partial = memory("partial", count * TOGETHER * lanes, norm.dtype, "local")
    tail = memory("tail", count, norm.dtype, "local")
    for place in range(count * TOGETHER):
        vectors.store(partial, place * lanes, vectors.zero)
    for i in range(count):
        T.buffer_store(tail, tirx.const(0, norm.dtype), [i])

    def add(first: Expr, many: int) -> None:
        for v in range(many):
            for i, term in enumerate(terms(*(vectors.load(tensor, first + v * lanes) for tensor in tensors))):
                place = (i * TOGETHER + v) * lanes
                vectors.store(partial, place, vectors.load(partial, place) + term)

    with loop(norm.batch) as image:
        line = (image * norm.channels + channel) * norm.pixels
        if steps:
            with loop(steps) as step:
                add(line + step * (TOGETHER * lanes), TOGETHER)
        if single:
            add(line + steps * TOGETHER * lanes, single)
        if rest:
            with loop(rest) as j:
                at = line + whole * lanes + j
                for i, term in enumerate(terms(*(tensor[at] for tensor in tensors))):
                    T.buffer_store(tail, tail[i] + term, [i])
    totals = []
    for i in range(count):
        found = [vectors.load(partial, (i * TOGETHER + v) * lanes) for v in range(TOGETHER)]
        while len(found) > 1:
            found = [one + other for one, other in zip(found[::2], found[1::2], strict=True)]
        totals.append(vectors.totals(found) + tail[i])
    return totals


def _each(
    norm: Norm, vectors: Vectors, channel: Expr, tensors: list[Buffer], result: Buffer, value: Callable[..., Expr]
) -> None:
    """Writes what `value` makes of the tensors' numbers, for all images and pixels of the channel."""
    lanes = vectors.lanes
    whole, rest = divmod(norm.pixels, lanes)
    with loop(norm.batch) as image:
        line = (image * norm.channels + channel) * norm.pixels
        if whole:
            with loop(whole) as step:
                at = line + step * lanes
                vectors.store(result, at, value(*(vectors.load(tensor, at) for tensor in tensors)))
        if rest:
            with loop(rest) as j:
                at = line + whole * lanes + j
                T.buffer_store(result, value(*(tensor[at] for tensor in tensors)), [at])
