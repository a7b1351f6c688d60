"""Convolutions of 8-bit integers in NumPy, and the integer kernels' functions of the same layers: for tests that
compare them bit for bit.

The reference sums in whole numbers and rounds as one float32 multiply-add does: a product of two float32 numbers has 48
bits, so that float64 holds it, and the sum with a third is rounded to float32 in the end.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from te_run import function, run, scheduled
from tvm import IRModule, te
from zeros import keep_blocks

from tvm_sched import targets
from tvm_sched.kernels.base import Form, Kernel
from tvm_sched.kernels.integer.begun_sums import begun
from tvm_sched.kernels.integer.dots import dot_of
from tvm_sched.kernels.integer.planar import planar_conv2d, planar_depthwise, planar_stem, planar_winograd, taps
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.layer import Layer
from tvm_sched.targets import Target

NAMES = ("x86-avx2", "x86-avx512", "x86-avx512-vnni", "host", "cortex-a76", "cortex-a72")
AVX2 = targets.get("x86-avx2")
AVX_VNNI = replace(AVX2, name="avx-vnni", cpu="alderlake", cpu_flags=(*AVX2.cpu_flags, "avx_vnni"))
TARGETS = {target.name: replace(target, cores=1) for target in (*map(targets.get, NAMES), AVX_VNNI)}
CONV2D, DEPTHWISE, STEM = planar_conv2d.KERNEL, planar_depthwise.KERNEL, planar_stem.KERNEL
WINOGRAD = planar_winograd.KERNEL


@dataclass(frozen=True)
class Convolution:
    """A layer and what it is computed of. Pairs are (height, width); `padding`: top, left, bottom, right."""

    channels: int
    out_channels: int
    image: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    batch: int = 1
    n: int = 16
    density: float = 1.0
    zero_point: int = 3
    seed: int = 0
    largest: int = 127  # of a weight

    @property
    def weight(self) -> np.ndarray:
        """int8 `[O, C / groups, kh, kw]`, from -`largest` to `largest`, with 1xN zeros."""
        channels = self.channels // self.groups
        drawn = np.random.default_rng(self.seed).integers(
            -self.largest, self.largest, (self.out_channels, channels, *self.kernel), "int8", endpoint=True
        )
        return keep_blocks(drawn, self.n, max(1, round(self.density * channels)), self.seed)

    def x(self, dtype: str) -> np.ndarray:
        """`[B, C, H, W]` of the type's whole range."""
        limits, shape = np.iinfo(dtype), (self.batch, self.channels, *self.image)
        return np.random.default_rng(self.seed + 1).integers(limits.min, limits.max, shape, dtype, endpoint=True)

    def layer(self, dtype: str, weight: np.ndarray) -> Layer:
        """As the kernels are offered it."""
        (height, width), (top, left, bottom, right) = self.image, self.padding
        output = [
            (extent + around - (taps - 1) * dilation - 1) // stride + 1
            for extent, around, taps, dilation, stride in zip(
                (height, width), (top + bottom, left + right), self.kernel, self.dilation, self.stride, strict=True
            )
        ]
        return Layer(
            "convolution",
            weight,
            (self.batch, *output, self.out_channels),
            self.channels,
            self.groups,
            self.stride,
            self.padding,
            self.dilation,
            dtype=dtype,
            input_image=self.image,
            zero_point=self.zero_point,
        )


def sums(x: np.ndarray, layer: Layer) -> np.ndarray:
    """int32 `[B, O, H', W']`."""
    top, left, bottom, right = layer.padding
    x = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)], constant_values=layer.zero_point).astype("int64")
    weight = layer.weight.astype("int64")
    (batch, height, width), (down, right), groups = layer.image, layer.stride, layer.groups
    total = np.zeros((batch, groups, layer.out_channels // groups, height, width), "int64")
    own = weight.reshape(groups, layer.out_channels // groups, *weight.shape[1:])
    for row, column in np.ndindex(layer.kernel):
        first = row * layer.dilation[0], column * layer.dilation[1]
        seen = x[:, :, first[0] :: down, first[1] :: right][:, :, :height, :width]
        seen = seen.reshape(batch, groups, -1, height, width)
        total += np.einsum("bgchw,goc->bgohw", seen, own[..., row, column])
    assert abs(total).max(initial=0) < 1 << 31
    return total.reshape(batch, layer.out_channels, height, width).astype("int32")


def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c in float32, rounded once."""
    return (np.float64(np.float32(a)) * np.float64(np.float32(b)) + np.float64(np.float32(c))).astype("float32")


def rounded(value: np.ndarray, limits: tuple[int, int], dtype: str) -> np.ndarray:
    """float32 to the nearest whole number, the even one of two, within limits."""
    return np.clip(np.rint(value), *limits).astype(dtype)


def per_channel(numbers: np.ndarray, axes: int = 2) -> np.ndarray:
    """`[O]` as `[O, 1, 1]`, or with so many axes of 1."""
    return numbers.reshape(-1, *[1] * axes)


def some_rounding(layer: Layer, seed: int, each: bool, fits: bool = True) -> tuple[Rounding, list[np.ndarray]]:
    """A rounding of the layer's sums, and its tensors: numbers of each channel, or one for all. The results spread over
    the whole range of the activations' type and are clipped here and there, at its ends or before.
    """
    rng = np.random.default_rng(seed)
    limits = np.iinfo(layer.dtype)
    spread = np.sqrt(np.square(layer.weight.astype("float64")).reshape(layer.out_channels, -1).sum(axis=1)) * 74 + 1
    coefficient = (rng.uniform(50, 90, layer.out_channels) / spread).astype("float32")
    bias = rng.uniform(limits.min, limits.max, layer.out_channels).astype("float32")
    low, high = limits.min + int(rng.integers(0, 20)), limits.max - int(rng.integers(0, 20))
    least, most = (limits.min, limits.max) if seed % 2 else (low, high)
    small = seed % 3 > 0 and is_small(layer, coefficient)
    if each:
        return Rounding((None,), None, (least, most), layer.dtype, fits, small=small), [coefficient, bias]
    return Rounding((float(coefficient[0]),), float(bias[0]), (least, most), layer.dtype, fits, small=small), []


def is_small(layer: Layer, coefficient: np.ndarray) -> bool:
    """Whether sums of int8 are less than 2^22, and what they become than 2^15, a residual and a bias included."""
    most = 128 * abs(layer.weight.astype("int64")).reshape(layer.out_channels, -1).sum(axis=1)
    return layer.dtype == "int8" and most.max() < 1 << 22 and (most.max() * coefficient.max()) < 32000


def with_residual(
    rounding: Rounding, tensors: list[np.ndarray], layer: Layer, seed: int
) -> tuple[Rounding, list[np.ndarray]]:
    """The rounding of each channel's sums with a residual: of 8 bits by one number, or of 32 by each channel's."""
    rng, limits = np.random.default_rng(seed), np.iinfo(layer.dtype)
    batch, height, width = layer.image
    shape, coefficient, bias = (batch, layer.out_channels, height, width), *tensors
    own, wide = int(rng.integers(2)), bool(rng.integers(2))
    if wide:
        residual, number = rng.integers(-(1 << 15), 1 << 15, shape, "int32"), None
        others = [rng.uniform(-1e-3, 1e-3, layer.out_channels).astype("float32")]
    else:
        residual, number = rng.integers(limits.min, limits.max, shape, layer.dtype, endpoint=True), 0.37
        others = []
    coefficients = (None, number) if own == 0 else (number, None)
    scales = [coefficient, *others] if own == 0 else [*others, coefficient]
    return replace(rounding, coefficients=coefficients, own=own), [residual, *scales, bias]


def expected_rounding(total: np.ndarray, rounding: Rounding, tensors: list[np.ndarray], axes: int = 2) -> np.ndarray:
    """What the layer's sums become; `axes` come after that of the channels."""
    terms = [total]
    if rounding.adds:
        residual, *tensors = tensors
        terms.insert(1 - rounding.own, residual)
    given = (per_channel(numbers, axes) for numbers in tensors)
    *coefficients, value = (
        next(given) if number is None else np.float32(number) for number in (*rounding.coefficients, rounding.bias)
    )
    for term, coefficient in zip(terms, coefficients, strict=True):
        value = multiply_add(term, coefficient, value)
    return rounded(value, rounding.limits, rounding.dtype)


@dataclass
class Function:
    """A kernel's function of a layer: `form`'s, on `arrays`, that computes `result`."""

    form: Form
    mod: IRModule
    arrays: list[np.ndarray]
    result: np.ndarray
    target: Target

    def found(self, tile: Any = None) -> np.ndarray:
        """What it computes with a tile, by default the best guess, in this machine's instructions."""
        sch = scheduled(self.form.kernel, self.mod, self.target, tile)
        here = self.target if targets.runs_here(self.target) else targets.on_this_machine(self.target)
        return run(sch, here, self.arrays, self.result.shape, str(self.result.dtype))

    def check(self, tile: Any = None) -> None:
        """The same integers."""
        np.testing.assert_array_equal(self.found(tile), self.result)


def form_of(kernel: Kernel, layer: Layer, target: Target, n: int | None) -> Form:
    """The kernel's form of the layer in blocks of `n`."""
    (form,) = (each for each in kernel.forms(layer, target) if each.n in (None, n))
    return form


def computed(form: Form, x: te.Tensor, weights: list[te.Tensor], rounding: Rounding | None = None) -> te.Tensor:
    """The layer on `x`, as the form's kernel computes it, free of any order."""
    options = {"problem": form.problem, "zero_point": form.layer.zero_point, "rounding": rounding}
    if form.kernel in (CONV2D, WINOGRAD):
        return form.kernel.compute(x, *weights, out_channels=form.layer.out_channels, **options)
    return taps.conv2d(x, *weights, block=form.kernel.name, **options)


def transformed(data: np.ndarray) -> np.ndarray:
    """int16 `[G, 4, 4, K, N, J]`: packed 3x3 kernels `data [G, K, 3, 3, N, J]` by four times what F(2,3) multiplies."""
    matrix = [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]
    return np.einsum("pr,gkrslj,qs->gpqklj", matrix, data.astype("int64"), matrix).astype("int16")


def packed(form: Form) -> list[np.ndarray]:
    """What the form's kernel packs, as its function takes it: weights as they are multiplied."""
    data, *others = form.kernel.pack(form)
    if form.kernel is WINOGRAD:
        data = transformed(data)
    elif form.kernel is CONV2D:
        data = data.astype(form.problem.weights)
    return [data, *others]


def function_of(
    case: Convolution,
    target: Target,
    kernel: Kernel = CONV2D,
    rounding: str = "",
    weight: np.ndarray | None = None,
    form: Form | None = None,
) -> Function:
    """The case's function for a target, of sums, or rounded by numbers of 'each' channel or 'one', or of each with a
    'residual'; with its result.
    """
    dtype = dot_of(target).activation
    layer = case.layer(dtype, case.weight if weight is None else weight)
    form = form or form_of(kernel, layer, target, case.n)
    x = case.x(dtype)
    total, arrays, rounds = sums(x, layer), [x, *packed(form)], None
    if rounding:
        rounds, tensors = some_rounding(layer, case.seed, rounding != "one", fits=case.seed % 2 == 0)
        if rounding == "residual":
            rounds, tensors = with_residual(rounds, tensors, layer, case.seed)
        total = expected_rounding(total, rounds, tensors)
        rounds, tensors = (case.seed % 2 and begun(rounds, tensors, layer.weight)) or (rounds, tensors)
        arrays = [*arrays, *tensors]
    image, *weights = inputs = [te.placeholder(array.shape, str(array.dtype)) for array in arrays]
    return Function(form, function(inputs, computed(form, image, weights, rounds)), arrays, total, target)
