"""The pattern found in zeros, and blocks packed so that unpacking them by hand gives the weight back."""

import numpy as np
import pytest
from zeros import keep_blocks

from subp_contract import pattern

SIZES = (4, 8, 16, 32, 64)


def weight(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype("float32")


def unpack(data, indices, channels):
    """The dense weight `[O, C, kh, kw]`, one kernel after another."""
    groups, kept, *kernel, n = data.shape
    dense = np.zeros((groups * n, channels, *kernel), data.dtype)
    for group in range(groups):
        for k in range(kept):
            channel = k if indices is None else indices[group, k]
            for lane in range(n):
                dense[group * n + lane, channel] += data[group, k, ..., lane]
    return dense


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kept", [1, 25, 50, 99])  # of 100 channels
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_uniform_blocks_are_found(n, kept, kernel):
    found = pattern.find(pattern.occupancy(keep_blocks(weight(192, 100, *kernel), n, kept)))
    assert found == pattern.Pattern(n, least=kept, most=kept, total=100)
    assert found.uniform


def test_one_position_of_a_kernel_makes_its_block_a_kept_one():
    pruned = keep_blocks(weight(16, 8, 3, 3), 16, 2)
    pruned[:, :, :2] = pruned[:, :, :, :2] = 0
    assert pattern.find(pattern.occupancy(pruned)) == pattern.Pattern(16, 2, 2, 8)


def test_zeros_at_random_inside_kept_blocks_do_not_hide_the_pattern():
    pruned = keep_blocks(weight(64, 64, 1, 1), 16, 16)
    pruned[np.random.default_rng(1).random(pruned.shape) < 0.2] = 0
    assert pattern.find(pattern.occupancy(pruned)).n in (4, 16)  # four zeros in a row are 1x4 blocks too
    assert pattern.kept_blocks(pattern.occupancy(pruned), 16).sum(axis=1).max() == 16


def test_groups_that_keep_different_numbers_are_not_uniform():
    found = pattern.find(pattern.occupancy(keep_blocks(weight(64, 40, 1, 1), 16, [3, 7, 7, 5])))
    assert found == pattern.Pattern(16, least=3, most=7, total=40)
    assert not found.uniform


def test_a_group_without_a_block_is_not_uniform_with_the_others():
    assert pattern.find(pattern.occupancy(keep_blocks(weight(32, 40, 1, 1), 16, [0, 4]))) == pattern.Pattern(
        16, 0, 4, 40
    )


def test_a_layer_of_zeros_keeps_nothing():
    assert pattern.find(pattern.occupancy(np.zeros((128, 10, 3, 3), "float32"))) == pattern.Pattern(64, 0, 0, 10)


def test_dense_weights_have_no_pattern():
    assert pattern.find(pattern.occupancy(weight(64, 30, 3, 3))) is None


def test_a_few_zeros_at_random_are_no_pattern():
    w = weight(64, 30, 1, 1)
    w[np.random.default_rng(0).random(w.shape) < 0.05] = 0
    w[:, :, 0, 0][::4] += 1  # no four neighbours are all zero
    assert pattern.find(pattern.occupancy(w)) is None


@pytest.mark.parametrize("out_channels", [10, 1, 3, 63])
def test_no_pattern_where_no_block_size_divides_the_output_channels(out_channels):
    assert pattern.find(pattern.occupancy(np.zeros((out_channels, 8, 1, 1), "float32"))) is None


def test_only_block_sizes_that_divide_the_output_channels_are_found():
    assert pattern.find(pattern.occupancy(keep_blocks(weight(24, 20, 1, 1), 8, 5))).n == 8
    assert pattern.find(pattern.occupancy(keep_blocks(weight(20, 20, 1, 1), 4, 5))).n == 4


def test_ignoring_zeros_every_kernel_counts():
    assert pattern.find(pattern.occupancy(keep_blocks(weight(64, 30, 1, 1), 16, 3), ignore_zeros=True)) is None


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kept", [1, 7, 29, 30])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 5)])
def test_packed_blocks_unpack_to_the_weight(n, kept, kernel):
    pruned = keep_blocks(weight(128, 30, *kernel), n, kept)
    data, indices = pattern.pack(pruned, pattern.kept_blocks(pattern.occupancy(pruned), n), n)
    assert data.shape == (128 // n, kept, *kernel, n)
    assert data.flags.c_contiguous and data.dtype == np.float32
    assert (indices is None) == (kept == 30)
    assert np.array_equal(unpack(data, indices, 30), pruned)


def test_indices_are_sorted_distinct_int32():
    pruned = keep_blocks(weight(64, 50, 1, 1), 16, [9, 2, 0, 5])
    _, indices = pattern.pack(pruned, pattern.kept_blocks(pattern.occupancy(pruned), 16), 16)
    assert indices.dtype == np.int32 and indices.shape == (4, 9)
    assert (np.diff(indices, axis=1) > 0).all()
    assert indices.min() >= 0 and indices.max() < 50


def test_shorter_rows_are_filled_with_zeros():
    pruned = keep_blocks(weight(48, 20, 3, 3), 16, [1, 6, 3])
    data, indices = pattern.pack(pruned, pattern.kept_blocks(pattern.occupancy(pruned), 16), 16)
    assert data.shape == (3, 6, 3, 3, 16)
    assert [int((data[group] != 0).any(axis=(1, 2, 3)).sum()) for group in range(3)] == [1, 6, 3]
    assert np.array_equal(unpack(data, indices, 20), pruned)


@pytest.mark.parametrize("n", [4, 8, 16])
def test_output_channels_that_do_not_fill_the_last_group_are_padded_with_zeros(n):
    pruned = weight(10, 12, 1, 1)
    pruned[:8, 6:] = pruned[8:, :6] = 0
    data, indices = pattern.pack(pruned, pattern.kept_blocks(pattern.occupancy(pruned), n), n)
    assert data.shape == (-(-10 // n), 6 if n < 16 else 12, 1, 1, n)
    unpacked = unpack(data, indices, 12)
    assert np.array_equal(unpacked[:10], pruned)
    assert not unpacked[10:].any()


def test_a_layer_of_zeros_packs_as_one_block_of_zeros_a_group():
    data, indices = pattern.pack(np.zeros((32, 6, 3, 3), "float32"), np.zeros((2, 6), bool), 16)
    assert data.shape == (2, 1, 3, 3, 16) and not data.any()
    assert np.array_equal(indices, [[0], [0]])


@pytest.mark.parametrize("groups", [2, 4, 12])
def test_a_grouped_weight_is_block_diagonal(groups):
    w = weight(24, 12 // groups, 3, 3)
    full = pattern.ungroup(w, groups)
    assert full.shape == (24, 12, 3, 3)
    for o in range(24):
        for c in range(12):
            group = o // (24 // groups)
            inside = c // (12 // groups) == group
            assert np.array_equal(full[o, c], w[o, c - group * (12 // groups)] if inside else np.zeros((3, 3)))


def test_blocks_outside_the_group_are_not_kept():
    w = weight(64, 8, 3, 3)  # 4 groups of 16 output and 8 input channels
    kept = pattern.kept_blocks(pattern.occupancy(w, groups=4), 16)
    assert np.array_equal(kept, np.kron(np.eye(4), np.ones(8)).astype(bool))
    data, indices = pattern.pack(pattern.ungroup(w, 4), kept, 16)
    assert data.shape == (4, 8, 3, 3, 16)
    assert np.array_equal(unpack(data, indices, 32), pattern.ungroup(w, 4))


def test_a_block_of_which_part_has_died_is_still_one_block():
    used = (
        np.kron(
            np.random.default_rng(0).permuted(np.repeat([[True, False]], [16, 48], axis=1).repeat(8, 0), axis=1),
            np.ones((16, 1), bool),
        )
        > 0
    )
    used[3:7, np.flatnonzero(used[3])[0]] = False
    assert pattern.find(used).n == 16
