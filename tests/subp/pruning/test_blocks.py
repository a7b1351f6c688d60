"""The block view against indexing by hand."""

import pytest
import torch

from subp.pruning import block_masks


def test_a_block_is_n_outputs_at_one_input_channel():
    weight = torch.arange(8 * 3 * 2 * 2.0).reshape(8, 3, 2, 2)
    view = block_masks.to_blocks(weight, 4)
    assert view.shape == (2, 3, 16)
    assert torch.equal(view[1, 2], weight[4:8, 2].flatten())


def test_a_linear_weight_has_blocks_of_n_numbers():
    weight = torch.arange(6 * 5.0).reshape(6, 5)
    assert torch.equal(block_masks.to_blocks(weight, 3)[1, 4], weight[3:6, 4])


def test_outputs_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="6 output channels"):
        block_masks.to_blocks(torch.zeros(6, 3, 1, 1), 4)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_an_expanded_mask_zeroes_exactly_its_blocks(kernel):
    mask = torch.tensor([[True, False, True], [False, False, True]])
    weight = torch.ones(8, 3, *kernel)
    masked = weight * block_masks.expand_mask(mask, weight.shape)
    for output in range(8):
        for channel in range(3):
            assert (masked[output, channel] == float(mask[output // 4, channel])).all()


def test_density_is_the_share_of_blocks_that_are_kept():
    assert block_masks.density(torch.tensor([[True, False, True, False], [False, False, True, False]])) == 3 / 8
