"""Sums of integers that are fractions as they are, where rounding is known to give the same for each of them.

    round(c s + b) = round(c X + B)         X = as_float(bits(M) + d + s), a float32 from 2^23 to 2^24; M = 2^23 + 2^22

So nothing turns a sum into a fraction: it begins with bits(M) + d, and c (M + d) is taken from the bias. What is left
of it, B, is no float32; but with some d it is within a thousand-millionth of one, which moves no sum from one result to
the next: that is tested, of each channel at both sides of each of its 255 steps.
"""

from dataclasses import replace

import numpy as np

from tvm_sched.kernels.integer.rounding import ONES, ONES_BITS, SMALL_SUM, Rounding

NEAR = 2  # sums on each side of where a step is looked for
MOST = 128  # magnitude of an int8
MANTISSA, EXACT = 24, 2.0**53  # bits of a float32; whole numbers that float64 holds
FARTHER = (4, 8, 16, 64, 256, 1024, 4096)  # from the bias than the best of all d are expected to be


def begun(
    rounding: Rounding, tensors: list[np.ndarray], weight: np.ndarray
) -> tuple[Rounding, list[np.ndarray]] | None:
    """The rounding of sums that begin so, and its tensors [O]: coefficients, B, and bits(M) + d. `weight [O, ...]`: of
    int8. None where a channel has no such numbers.
    """
    if not rounding.small or rounding.adds:
        return None
    most = MOST * abs(weight.reshape(len(weight), -1).astype("int64")).sum(axis=1)
    given = iter(tensors)
    coefficient, bias = (
        np.broadcast_to(next(given) if number is None else np.float32(number), most.shape).astype("float32")
        for number in (*rounding.coefficients, rounding.bias)
    )
    if (coefficient <= 0).any():
        return None
    ones, added = np.zeros(len(most), "int64"), np.zeros(len(most))
    left = np.arange(len(most))
    for farther in FARTHER:
        found = [
            beginning(*numbers, farther) for numbers in zip(coefficient[left], bias[left], most[left], strict=True)
        ]
        ones[left], added[left] = zip(*found, strict=True)
        left = left[~same(*(each[left] for each in (coefficient, bias, ones, added)), rounding.limits)]
        if not left.size:
            arrays = [coefficient, added.astype("float32"), (ONES_BITS + ones).astype("int32")]
            return replace(rounding, coefficients=(None,), bias=None, begun=True), arrays
    return None


def beginning(coefficient: np.float32, bias: np.float32, most: int, farther: int) -> tuple[int, float]:
    """(d, B) of a channel, of which c (M + d) + B is next to its bias: so many times farther than the best is expected
    to be. No numbers where there are none.
    """
    room, nothing = SMALL_SUM - int(most) - 1, (0, np.nan)
    if room <= 0:
        return nothing
    ratios = [float(number).as_integer_ratio() for number in (coefficient, bias)]
    unit = max(bottom for _, bottom in ratios)
    c, b = (top * (unit // bottom) for top, bottom in ratios)
    first = int(ONES) - room
    largest = abs(b) + c * (int(ONES) + room)
    step = max(1, 1 << max(0, largest.bit_length() - MANTISSA))  # of a float32 as large as B, in units
    place, near = (b - c * first) % step, min(step // 2, -(-farther * step // (2 * room)))
    tries = 0 if not near <= place < step - near else first_multiple(c % step, step, place - near, place + near)
    if tries is None or tries > 2 * room:
        return nothing
    return tries - room, ((b - c * (first + tries) + step // 2) // step * step) / unit


def same(c: np.ndarray, b: np.ndarray, ones: np.ndarray, added: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Of which channels all sums are rounded to the same: at each step from one result to the next both sides are; in
    float64, where that is exact.
    """
    c, b, ones, added = (each.astype("float64")[:, None, None] for each in (c, b, ones, added))
    k = np.arange(*limits, dtype="float64")[None, :, None]
    sums = np.ceil((k + 0.5 - b) / c) + np.arange(-NEAR, NEAR + 1)
    fraction = np.maximum(MANTISSA - np.frexp(c)[1], np.where(b, MANTISSA - np.frexp(b)[1], 0))  # bits
    exact = np.maximum(abs(c * sums) + abs(b), abs(added)) * 2.0**fraction <= EXACT
    above, also = (
        np.rint((c * x + bias).astype("float32")) > k for x, bias in ((sums, b), (ONES + ones + sums, added))
    )
    return (exact & (above == also)).all(axis=(1, 2)) & ~above[..., 0].any(axis=1) & above[..., -1].all(axis=1)


def first_multiple(a: int, modulus: int, low: int, high: int) -> int | None:
    """The least x, not negative, with low <= a x mod modulus <= high, by Euclid's algorithm; None where there is
    none.
    """
    if low == 0:
        return 0
    if a == 0:
        return None
    x = -(-low // a)
    if a * x <= high:
        return x
    wraps = first_multiple(modulus % a, a, -high % a, -low % a)
    return None if wraps is None else -(-(low + modulus * wraps) // a)
