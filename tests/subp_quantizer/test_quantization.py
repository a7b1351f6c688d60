"""Which operators are computed in 8 bits, and what calibration and training make of them."""

import pytest
import torch
from quantised_networks import Block, named, operators
from torch import nn
from torch.nn import functional as F

from subp_contract.errors import UserError
from subp_quantizer import quantization, sites, torchao_import
from subp_quantizer.sites import Kind


class Ends(nn.Module):
    """What is read in float32 alone: by a softmax, by the user."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), nn.LayerNorm(8)

    def forward(self, x):
        y = self.conv(x)
        return self.norm((y + y.mean((2, 3), keepdim=True)).permute(0, 2, 3, 1)), y


def exported(module, *shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    return torch.export.export(module, (x,)), x


def scales(program):
    """Operator -> (scale, zero point) of its result, by name; the network's input is 'x'."""
    quantised = [node for node in operators(program) if named(node) == "quantize_per_tensor"]
    return {named(node.args[0]): node.args[1:3] for node in quantised}


def test_a_layer_is_one_site_with_its_norm_residual_and_activation():
    program, _ = exported(Block().eval(), 2, 3, 8, 8)
    choices = sites.chosen(program.module(check_guards=False).graph)
    told = [([named(node) for node in each.site.nodes], len(each.site.inputs), each.stored) for each in choices]
    assert told == [
        (["conv2d", "batch_norm", "hardtanh"], 1, True),
        (["conv2d", "batch_norm", "silu"], 1, True),
        (["conv2d", "batch_norm", "add", "relu"], 2, True),
        (["max_pool2d"], 1, True),
        (["cat"], 2, True),
        (["mean"], 1, True),
        (["linear"], 1, False),
    ]


def test_what_nobody_reads_in_8_bits_stays_in_float32():
    program, _ = exported(Ends().eval(), 1, 3, 4, 4)
    (only,) = sites.chosen(program.module(check_guards=False).graph)
    assert only.site.kind is Kind.LAYER and not only.stored


@pytest.fixture(scope="module")
def calibrated():
    torch.manual_seed(0)
    module = Block().eval()
    with torch.no_grad():
        module.linear[0].weight[:4, 3] = 0  # a 1x4 block
    program, x = exported(module, 2, 3, 8, 8)
    prepared = quantization.prepared(program)
    for seed in range(4):
        prepared(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
    return module, x, quantization.converted(prepared, (x,))


def test_calibration_makes_int8_weights_under_their_names_with_their_zeros(calibrated):
    module, _, program = calibrated
    state = program.state_dict
    for name in ("stem.0", "depthwise.0", "linear.0", "classifier"):
        weight = state[f"{name}.weight"]
        assert weight.dtype == torch.int8
        assert weight.min() >= -127 and not state[f"{name}.weight_zero_point"].any()
        assert weight.flatten(1).abs().amax(1).eq(127).all()  # each channel uses its range
    assert set(state) == {
        f"{name}.weight{ending}"
        for name in ("stem.0", "depthwise.0", "linear.0", "classifier")
        for ending in ("", "_scale", "_zero_point", *(["_bias"] if name != "classifier" else []))
    } | {"classifier.bias"}
    assert (state["linear.0.weight"][:4, 3] == 0).all() and (module.linear[0].weight[:4, 3] == 0).all()


def test_the_quantised_network_is_near_the_float_one(calibrated):
    module, x, program = calibrated
    with torch.no_grad():
        expected, found = module(x), program.module()(x)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    assert not torch.equal(found, expected)


def test_activations_are_uint8_of_the_whole_range_and_moves_keep_the_scale(calibrated):
    *_, program = calibrated
    quantised = [node for node in operators(program) if named(node) == "quantize_per_tensor"]
    assert all(node.args[3:] == (0, 255, torch.uint8) for node in quantised)
    found = scales(program)
    assert found["max_pool2d"] == found["cat"] == found["relu"]
    assert found["mean"] != found["cat"]


def test_calibration_gives_the_same_numbers_again(calibrated):
    module, x, program = calibrated
    prepared = quantization.prepared(torch.export.export(module, (x,)))
    for seed in range(4):
        prepared(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
    again = quantization.converted(prepared, (x,))
    assert all(torch.equal(again.state_dict[name], value) for name, value in program.state_dict.items())
    assert scales(again) == scales(program)


def test_training_learns_and_rounds_as_the_quantised_network(monkeypatch):
    monkeypatch.setattr(torchao_import, "_patterns", {})
    torch.manual_seed(0)
    module = Block().train()
    prepared = quantization.prepared(torch.export.export(module, (torch.randn(4, 3, 8, 8),)), qat=True)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    losses = []
    x, wanted = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    for _ in range(8):
        loss = F.cross_entropy(prepared(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    program, again = (quantization.converted(prepared, (x,)) for _ in range(2))  # by patterns traced, and known
    assert all(torch.equal(again.state_dict[name], value) for name, value in program.state_dict.items())
    assert str(again.graph) == str(program.graph)
    assert program.state_dict["linear.0.weight"].dtype == torch.int8
    prepared.apply(torch.ao.quantization.disable_observer)
    with torch.no_grad():
        expected = quantization.in_evaluation(prepared)(x)
    step = next(n for n in operators(program) if named(n) == "quantize_per_tensor" and named(n.args[0]) == "mean").args[
        1
    ]
    with torch.no_grad():
        assert (program.module()(x) - expected).abs().max() < 2 * step * module.classifier.weight.abs().sum(1).max()


def test_in_evaluation_nothing_is_dropped_and_norms_use_their_statistics_if_any():
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(8, eps=0.1), nn.BatchNorm2d(8, track_running_stats=False)
    module = nn.Sequential(nn.ReLU(), norms[0], nn.Dropout(0.5), nn.Dropout2d(0.5), norms[1]).train()
    x = 3 * torch.randn(4, 8, 5, 5) + 1
    module(x)
    program = torch.export.export(module, (x,)).module(check_guards=False)
    with torch.no_grad():
        found, expected = quantization.in_evaluation(program)(x), module.eval()(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert not torch.allclose(program(x), expected, atol=0.1)  # it is left as it was


def test_a_network_without_layers_is_refused():
    program, _ = exported(nn.ReLU(), 1, 3)
    with pytest.raises(UserError, match="nothing to quantise"):
        quantization.prepared(program)
