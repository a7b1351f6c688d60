"""Networks whose channels are put in other orders compute what they did."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subp import models
from subp.common.vision import import_torchvision
from subp.pruning.channels import rearrange
from subp_contract.errors import UserError

zoo = import_torchvision().models


def unlike(model, seed=1):
    """The model in eval mode, vectors of parameters and statistics far from their initial ones and zeros."""
    draws = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and (tensor.ndim <= 1 or "layer_scale" in name or "token" in name):
            tensor.data.copy_(torch.rand(tensor.shape, generator=draws) + 0.5)
    return model.eval()


def shuffle(model, shape, seed=2):
    """(channels found, outputs before, outputs after putting every set in a random order), in double precision"""
    channels = rearrange.find(model, torch.zeros(1, *shape))
    draws = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(each.channels), generator=draws) for each in channels.sets]
    x = torch.randn(2, *shape, generator=draws, dtype=torch.double)
    model.double()
    with torch.no_grad():
        before = model(x)
        rearrange.permute(channels, orders, model)
        return channels, before, model(x)


def free_share(channels):
    rows = rearrange.report(channels)
    return sum(row.free for row in rows) / sum(row.outputs for row in rows)


def shuffle_net():
    return zoo.ShuffleNetV2([2, 2, 1], [24, 32, 64, 64, 96], num_classes=10)


def vgg():
    model = zoo.VGG(zoo.vgg.make_layers([16, "M", 32, "M"], batch_norm=True), init_weights=False)
    model.classifier = nn.Sequential(nn.Linear(32 * 7 * 7, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10))
    return model


def efficient_net(settings):
    return zoo.EfficientNet(settings, 0.0, num_classes=10)


def mb_conv(*settings):
    return zoo.efficientnet.MBConvConfig(*settings, width_mult=1.0, depth_mult=1.0)


def google_net():
    return zoo.GoogLeNet(num_classes=10, aux_logits=False, init_weights=False)


def inception():
    return zoo.Inception3(num_classes=10, aux_logits=False, init_weights=False)


FAMILIES = {  # in small, where the family allows
    "alexnet": (lambda: zoo.alexnet(num_classes=10), 64),
    "vgg": (vgg, 16),
    "resnet": (lambda: zoo.ResNet(zoo.resnet.BasicBlock, [1, 2, 1, 1], num_classes=10), 32),
    "bottlenecks": (lambda: zoo.ResNet(zoo.resnet.Bottleneck, [2, 1, 1, 1], num_classes=10), 32),
    "resnext": (lambda: zoo.ResNet(zoo.resnet.Bottleneck, [1] * 4, num_classes=10, groups=4, width_per_group=16), 32),
    "wide_resnet": (lambda: zoo.ResNet(zoo.resnet.Bottleneck, [1] * 4, num_classes=10, width_per_group=128), 32),
    "densenet": (lambda: zoo.DenseNet(8, (2, 3, 2, 2), 16, num_classes=10), 32),
    "mobilenet_v1": (lambda: models.create("mobilenet_v1_x0_25", 10), 32),
    "mobilenet_v2": (lambda: zoo.mobilenet_v2(num_classes=10, width_mult=0.25), 32),
    "mobilenet_v3": (lambda: zoo.mobilenet_v3_small(num_classes=10), 32),
    "efficientnet": (lambda: efficient_net([mb_conv(1, 3, 1, 16, 16, 1), mb_conv(4, 3, 2, 16, 24, 2)]), 32),
    "mnasnet": (lambda: zoo.MNASNet(0.35, num_classes=10), 32),
    "shufflenet": (shuffle_net, 32),
    "squeezenet": (lambda: zoo.squeezenet1_1(num_classes=10), 32),
    "googlenet": (google_net, 64),
    "inception": (inception, 75),
    "regnet_y": (
        lambda: zoo.RegNet(zoo.regnet.BlockParams.from_init_params(4, 24, 24, 2.0, 8, se_ratio=0.25), num_classes=10),
        32,
    ),
    "convnext": (
        lambda: zoo.ConvNeXt(
            [zoo.convnext.CNBlockConfig(16, 24, 1), zoo.convnext.CNBlockConfig(24, None, 2)], num_classes=10
        ),
        32,
    ),
    "vit": (lambda: zoo.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10), 32),
    "swin": (lambda: zoo.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [2, 2], num_classes=10), 32),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_random_orders_of_all_free_channels_leave_the_outputs_as_they_are(family):
    make, size = FAMILIES[family]
    torch.manual_seed(0)
    channels, before, after = shuffle(unlike(make()), (3, size, size))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10 * float(before.abs().max()))
    assert free_share(channels) > 0.75


def reasons(channels):
    return {row.weight: row.reason for row in rearrange.report(channels)}


def test_what_the_network_needs_in_order_stays_and_says_why():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1), nn.Conv2d(3, 8, 1)
            self.d = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            y = self.c(x + self.b(self.a(x).relu()))
            return self.d(y.cumsum(1)).flatten(1)

    channels, before, after = shuffle(Net(), (3, 6, 6))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert reasons(channels) == {
        "a.weight": None,
        "b.weight": "they are tied to data in a fixed order",
        "c.weight": "cumsum in the network needs them in order",
        "d.weight": "these are the network's outputs",
    }


class Slices(nn.Module):
    """Halves that go different ways, one of them to a grouped convolution, and broadcasts."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.Conv2d(16, 8, 1),
        )
        self.gate, self.norm, self.out = nn.Conv2d(16, 1, 1), nn.GroupNorm(4, 16), nn.Linear(16 * 9, 5)
        self.scale = nn.Parameter(torch.rand(16, 1, 1))

    def forward(self, x):
        x = self.stem(x) * self.scale
        a, b = x[:, :8], x[:, 8:]
        y = torch.cat([self.left(a) + b, self.right(x)], 1)
        y = self.norm(y) * self.gate(x).sigmoid() + y.mean(1, keepdim=True)
        return self.out(y.roll(1, 2).flatten(1))


def test_slices_groups_and_norms_keep_channels_within_their_scopes():
    torch.manual_seed(0)
    channels, before, after = shuffle(Slices(), (3, 3, 3))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    sizes = {row.weight: row.sets for row in rearrange.report(channels)}
    # `left` and the second half of the stem are added; the groups of the convolution and of the norm have 4 channels
    assert sizes["stem.weight"] == (4, 4, 4, 4) and sizes["left.weight"] == (4, 4) and sizes["right.weight"] == (4, 4)


def test_a_layer_used_twice_and_a_shared_weight_are_tied():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.out = (nn.Linear(8, 8) for _ in range(4))
            self.c.weight = self.b.weight

        def forward(self, x):
            return self.out(self.c(self.b(self.b(self.a(x)))))

    torch.manual_seed(0)
    channels, before, after = shuffle(Net(), (8,))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert len(channels.sets) == 1 and channels.sets[0].rows.keys() == {"a.weight", "b.weight"}


def test_filters_are_sorted_by_norm_in_sets_by_the_sum_over_layers_in_units_of_their_means():
    model = zoo.ResNet(zoo.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    unlike(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = rearrange.rearrange(model, torch.randn(2, 3, 32, 32))
    assert [row.weight for row in report if row.reason] == ["fc.weight"]
    norms = {name: weight.flatten(1).abs().sum(1) for name, weight in model.state_dict().items() if weight.ndim > 1}
    free = norms["layer1.0.conv1.weight"]  # made by this layer alone
    assert (free.diff() <= 0).all() and not torch.equal(
        model.state_dict()["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"]
    )
    total = sum(norms[name] / norms[name].mean() for name in ("layer2.0.conv2.weight", "layer2.0.downsample.0.weight"))
    assert (total.diff() <= 1e-6).all()


def test_momenta_and_masks_of_weights_move_with_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    channels = rearrange.find(model, torch.zeros(1, 3, 4, 4))
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    numbers = {name: torch.arange(p.numel()).reshape(p.shape) for name, p in model.named_parameters()}
    moved = rearrange.permuted(channels, [order], numbers)
    assert torch.equal(moved["0.weight"], numbers["0.weight"][order]) and torch.equal(moved["1.bias"], order)
    assert torch.equal(moved["2.weight"], numbers["2.weight"][:, order]) and torch.equal(
        moved["2.bias"], numbers["2.bias"]
    )


def test_a_rearrangement_that_changed_the_outputs_is_refused_and_undone(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(rearrange, "_permuted_weight", lambda weight, rows, columns, groups: weight[rows])
    with pytest.raises(UserError, match="Sequential is not rearranged: its outputs would change"):
        rearrange.rearrange(model, torch.randn(1, 3, 4, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_cannot_be_traced_is_told_so():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    model = Net().train()
    with pytest.raises(UserError, match="Net cannot be traced: "):
        rearrange.find(model, torch.ones(1, 4))
    assert model.training


def test_attention_moves_channels_within_heads_and_ties_queries_to_keys():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    channels, before, after = shuffle(Net(), (5, 8))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert [set(each.rows) for each in channels.sets] == [{"q.weight", "k.weight"}] * 2 + [{"v.weight"}] * 2
