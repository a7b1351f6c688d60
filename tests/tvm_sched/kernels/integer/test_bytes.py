"""Interleaving and copying of bytes by vectors, against NumPy."""

import numpy as np
import pytest
import tvm_ffi
from integer_run import TARGETS
from te_run import function, run
from tvm import te, tirx
from tvm.s_tir import Schedule

from tvm_sched import targets
from tvm_sched.kernels.integer.interleave import interleave
from tvm_sched.kernels.integer.planar.planes import copy_padded, copy_whole, padded_pixel
from tvm_sched.kernels.integer.rounding import narrow
from tvm_sched.passes.integer.interleave_bytes import interleave_bytes

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["host", "x86-avx2"])
@pytest.mark.parametrize(
    ("pixels", "group", "stride", "wide"),
    [
        (64, 4, 1, "uint8"),
        (112, 4, 1, "uint8"),  # vectors of 64, 32 and 16
        (80, 4, 2, "int8"),
        (48, 4, 3, "uint8"),
        (16, 2, 1, "int16"),
        (96, 2, 2, "int16"),
        (72, 2, 1, "uint8"),
        (48, 1, 1, "int16"),
        (48, 1, 2, "uint8"),
    ],
)
def test_groups_lie_side_by_side(name, pixels, group, stride, wide):
    narrow = "int8" if wide == "int8" else "uint8"
    limits, shape = np.iinfo(narrow), (7, stride * 2 * pixels)
    x = RANDOM.integers(limits.min, limits.max, shape, narrow, endpoint=True)
    planes = RANDOM.permutation(7)[:group].astype("int32")  # channels that lie anywhere
    image, chosen = te.placeholder(x.shape, narrow), te.placeholder(planes.shape, "int32")

    def grouped(m):
        return image[chosen[m % group], m // group * stride].astype(wide)

    sch = Schedule(function([image, chosen], te.compute((2 * pixels * group,), grouped, name="grouped")))
    _, pixel, _ = sch.split(sch.get_loops(sch.get_sblock("grouped"))[0], [None, pixels, group])
    interleave(sch, pixel, stride)
    expected = x[planes, ::stride].T.reshape(-1).astype(wide)
    np.testing.assert_array_equal(run(sch, TARGETS[name], [x, planes], expected.shape, wide), expected)


@pytest.mark.parametrize("name", ["host", "cortex-a76"])
@pytest.mark.parametrize("pixels", [1, 9, 49, 100, 196])
def test_pixels_that_are_not_needed_are_not_read(name, pixels):
    """They lie behind the planes."""
    x = RANDOM.integers(0, 255, (6, pixels), "uint8", endpoint=True)
    planes, run_of = RANDOM.permutation(6)[:4].astype("int32"), pixels + 7
    image, chosen = te.placeholder(x.shape, "uint8"), te.placeholder(planes.shape, "int32")

    def grouped(m):
        at = m // 4
        return tirx.if_then_else(at < pixels, image[chosen[m % 4], at], tirx.const(0, "uint8"))

    sch = Schedule(function([image, chosen], te.compute((run_of * 4,), grouped, name="grouped")))
    _, pixel, _ = sch.split(sch.get_loops(sch.get_sblock("grouped"))[0], [1, None, 4])
    interleave(sch, pixel, needed=pixels)
    target = TARGETS[name] if name == "host" else targets.on_this_machine(TARGETS[name])
    found = run(sch, target, [x, planes], (run_of * 4,), "uint8")[: pixels * 4]
    np.testing.assert_array_equal(found, x[planes].T.reshape(-1))


@pytest.mark.parametrize("name", ["host", "x86-avx2"])
@pytest.mark.parametrize(("dtype", "limits"), [("uint8", (0, 255)), ("uint8", (7, 201)), ("int8", (-128, 127))])
@pytest.mark.parametrize(("pixels", "group"), [(48, 4), (32, 2), (24, 4), (16, 1)])
def test_integers_are_narrowed_as_they_are_interleaved(name, dtype, limits, pixels, group):
    """Numbers beyond 16 bits, too."""
    x = (RANDOM.standard_normal((group, pixels)) * 10.0 ** RANDOM.integers(1, 7, (group, pixels))).astype("int32")
    rows = te.placeholder(x.shape, "int32")
    made = te.compute((pixels * group,), lambda m: narrow(rows(m % group, m // group), limits, dtype), name="made")
    sch = Schedule(function([rows], made))
    pixel, _ = sch.split(sch.get_loops(sch.get_sblock("made"))[0], [None, group])
    interleave(sch, pixel)
    expected = np.clip(x, *limits).T.reshape(-1).astype(dtype)
    np.testing.assert_array_equal(run(sch, TARGETS[name], [x], expected.shape, dtype), expected)


@pytest.mark.parametrize("wide", ["uint8", "int16"])
@pytest.mark.parametrize(
    ("width", "left", "columns"),
    [(1, 0, 1), (5, 1, 7), (16, 3, 24), (31, 0, 31), (66, 2, 70), (7, 1, 8), (9, 2, 10)],  # the last two are cut
)
def test_padded_rows_are_copied(width, left, columns, wide):
    x = RANDOM.integers(0, 255, (1, 3, 4, width), "uint8", endpoint=True)
    image = te.placeholder(x.shape, "uint8")
    padded = te.compute(
        (3, 7, columns),
        lambda c, h, w: padded_pixel(image, 9, (0, c), h - 2, w - left).astype(wide),
        name="padded",
    )
    sch = Schedule(function([image], padded))
    copy_padded(sch, sch.get_loops(sch.get_sblock("padded"))[-1], left, width)
    right = max(0, columns - left - width)
    expected = np.pad(x[0], [(0, 0), (2, 1), (left, right)], constant_values=9)[..., :columns].astype(wide)
    np.testing.assert_array_equal(run(sch, TARGETS["host"], [x], expected.shape, wide), expected)


@pytest.mark.parametrize("channels", [8, 10])
@pytest.mark.parametrize("width", [3, 14, 56, 100])
def test_whole_rows_are_copied_also_of_a_block_row_that_is_cut_short(channels, width):
    x = RANDOM.integers(0, 255, (channels, 3, width), "uint8", endpoint=True)
    image = te.placeholder(x.shape, "uint8")
    sch = Schedule(function([image], te.compute(x.shape, lambda *at: image(*at), name="copied")))
    channel, _, column = sch.get_loops(sch.get_sblock("copied"))
    sch.split(channel, [None, 4])
    copy_whole(sch, column)
    np.testing.assert_array_equal(run(sch, TARGETS["host"], [x], x.shape, "uint8"), x)


def scalar_stores(func, name: str) -> list:
    """Stores of single numbers into a buffer."""
    found = []

    def look(store):
        if store.buffer.name == name and not isinstance(store.indices[-1], tirx.Ramp):
            found.append(store)

    tvm_ffi.structural_walk(func.body, (tirx.BufferStore, look))
    return found


@pytest.mark.parametrize("wide", ["uint8", "int16"])
def test_what_is_computed_before_bytes_are_interleaved_is_so_by_vectors(wide):
    """A clip, and a residual of one number a channel."""
    x = RANDOM.integers(0, 255, (4, 128), "uint8", endpoint=True)
    added = RANDOM.integers(0, 20, (4, 1), "uint8")
    image, numbers = te.placeholder(x.shape, "uint8"), te.placeholder(added.shape, "uint8")

    def clipped(m):
        value = tirx.min(image[m % 4, m // 4], tirx.const(200, "uint8")) + numbers[m % 4, 0]
        return value.astype(wide)

    sch = Schedule(function([image, numbers], te.compute((512,), clipped, name="grouped")))
    _, pixel, _ = sch.split(sch.get_loops(sch.get_sblock("grouped"))[0], [None, 64, 4])
    interleave(sch, pixel)
    assert not scalar_stores(interleave_bytes(sch.mod["main"]), "grouped")
    expected = (np.minimum(x, 200) + added).T.reshape(-1).astype(wide)
    np.testing.assert_array_equal(run(sch, TARGETS["host"], [x, added], expected.shape, wide), expected)


@pytest.mark.parametrize("width", [7, 66])
def test_what_is_computed_of_copied_rows_is_so_by_vectors(width):
    """The greatest of two rows, clipped, with a margin."""
    x = RANDOM.integers(0, 255, (1, 3, 5, width), "uint8", endpoint=True)
    image = te.placeholder(x.shape, "uint8")

    def greatest(c, h, w):
        inside = tirx.all(w >= 2, w < width + 2)
        both = tirx.max(image[0, c, h, w - 2], image[0, c, h + 1, w - 2])
        return tirx.if_then_else(inside, tirx.min(both, tirx.const(180, "uint8")), tirx.const(9, "uint8"))

    sch = Schedule(function([image], te.compute((3, 4, width + 3), greatest, name="rows")))
    copy_padded(sch, sch.get_loops(sch.get_sblock("rows"))[-1], 2, width)
    expected = np.minimum(np.maximum(x[0, :, :-1], x[0, :, 1:]), 180)
    expected = np.pad(expected, [(0, 0), (0, 0), (2, 1)], constant_values=9)
    np.testing.assert_array_equal(run(sch, TARGETS["host"], [x], expected.shape, "uint8"), expected)
