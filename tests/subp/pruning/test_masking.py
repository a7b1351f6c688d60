"""Masks on layers: gradients against autograd by hand, folding, copying, exporting."""

import copy

import pytest
import torch
from torch import nn

from subp.pruning import masking

DECAY = 0.25


def masked_layer(soft, decay=DECAY):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 8, 3)
    block_mask = masking.attach(layer, (2, 6), soft, decay)
    block_mask.mask[0, :3] = False
    block_mask.mask[1, 2:5] = False
    return layer, block_mask.mask


def dense_mask(mask):
    return mask.repeat_interleave(4, 0)[:, :, None, None].expand(8, 6, 3, 3)


def by_hand(layer, mask, x):
    """(output, gradient of its sum of squares by the masked weight) from a plain leaf tensor."""
    weight = (layer.parametrizations.weight.original * dense_mask(mask)).detach().requires_grad_()
    output = nn.functional.conv2d(x, weight, layer.bias)
    output.square().sum().backward()
    return output.detach(), weight.grad


def test_soft_gradients_go_straight_through_and_pull_pruned_weights_to_zero():
    layer, mask = masked_layer(soft=True)
    x = torch.randn(2, 6, 5, 5)
    expected, gradient = by_hand(layer, mask, x)
    output = layer(x)
    output.square().sum().backward()
    original = layer.parametrizations.weight.original
    assert torch.equal(output, expected)
    torch.testing.assert_close(original.grad, gradient + DECAY * ~dense_mask(mask) * original.detach())


def test_hard_masking_gives_pruned_weights_no_gradient():
    layer, mask = masked_layer(soft=False)
    x = torch.randn(2, 6, 5, 5)
    expected, gradient = by_hand(layer, mask, x)
    output = layer(x)
    output.square().sum().backward()
    assert torch.equal(output, expected)
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, gradient * dense_mask(mask))


def test_pruned_weights_are_positive_zeros_even_where_the_trained_ones_are_not_finite():
    layer, mask = masked_layer(soft=True)
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 0] = float("nan")
        layer.parametrizations.weight.original[0, 1] = -1.0
    zeros = layer.weight[~dense_mask(mask)]
    assert (zeros == 0).all() and not zeros.signbit().any()


def test_the_trained_parameter_stays_the_same_object_through_attaching_and_folding():
    layer = nn.Conv2d(6, 8, 3)
    weight = layer.weight
    masking.attach(layer, (2, 6), True, DECAY)
    assert layer.parametrizations.weight.original is weight
    assert masking.fold(layer).weight is weight


def test_assigning_a_weight_sets_the_trained_parameter():
    layer, _ = masked_layer(soft=True)
    layer.weight = torch.ones(8, 6, 3, 3)
    assert (layer.parametrizations.weight.original == 1).all()


@pytest.mark.parametrize("soft", [True, False])
def test_folding_leaves_plain_modules_with_the_same_outputs(soft):
    layer, mask = masked_layer(soft)
    model = nn.Sequential(layer, nn.ReLU())
    x = torch.randn(2, 6, 5, 5)
    before = model(x)
    folded = masking.fold(model)
    assert folded is model
    assert type(model[0]) is nn.Conv2d
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert isinstance(model[0].weight, nn.Parameter) and model[0].weight.requires_grad
    assert not (model[0]._forward_hooks or model[0]._forward_pre_hooks)
    assert torch.equal(model(x), before)
    assert (model[0].weight[~dense_mask(mask)] == 0).all()


def test_a_folded_state_dict_equals_the_folded_models():
    layer, _ = masked_layer(soft=True)
    model = nn.Sequential(layer, nn.BatchNorm2d(8))
    from_state = masking.fold_state_dict(model.state_dict())
    state = masking.fold(model).state_dict()
    assert from_state.keys() == state.keys()
    assert all(torch.equal(from_state[name], state[name]) for name in state)


def test_a_copy_has_masks_and_weights_of_its_own():
    layer, mask = masked_layer(soft=True)
    twin = copy.deepcopy(layer)
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(twin(x), layer(x))
    mask.fill_(False)
    assert torch.equal(layer(x), layer.bias[None, :, None, None].expand(2, 8, 3, 3))
    assert not torch.equal(twin(x), layer(x))


def test_folding_a_copy_leaves_the_original_masked():
    layer, mask = masked_layer(soft=True)
    model = nn.Sequential(layer)
    twin = masking.fold(copy.deepcopy(model))
    assert type(twin[0]) is nn.Conv2d and masking.masked_weights(layer)
    assert torch.equal(layer.weight, torch.where(dense_mask(mask), layer.parametrizations.weight.original, 0))
    assert torch.equal(masking.fold(model)[0].weight, twin[0].weight)


def test_a_masked_model_saves_its_masks_with_its_weights():
    layer, mask = masked_layer(soft=True)
    other = nn.Conv2d(6, 8, 3)
    loaded = masking.attach(other, (2, 6), True, DECAY)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(loaded.mask, mask)


def test_channels_last_weights_stay_so():
    layer = nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last)
    masking.attach(layer, (2, 6), True, DECAY).mask[0, 0] = False
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_folded_model_exports_with_its_zeros():
    layer, mask = masked_layer(soft=True)
    model = masking.fold(nn.Sequential(layer, nn.ReLU())).eval()
    x = torch.randn(2, 6, 5, 5)
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), model(x))
    assert (program.state_dict["0.weight"][~dense_mask(mask)] == 0).all()


def test_a_masked_model_compiles_without_a_graph_break():
    layer, _ = masked_layer(soft=True)
    x = torch.randn(2, 6, 5, 5)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))
