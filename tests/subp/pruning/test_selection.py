"""Which layers are pruned."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from subp import models
from subp.pruning import masking
from subp.pruning.selection import Place, block_size, select_layers
from subp.pruning.sparsifier import Sparsifier
from subp.pruning.summary import inspect
from subp_contract.errors import UserError


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.depthwise = nn.Conv2d(32, 32, 3, groups=32)
        self.pointwise = nn.Conv2d(32, 64, 1)
        self.grouped = nn.Conv2d(64, 64, 3, groups=4)
        self.narrow_groups = nn.Conv2d(64, 32, 3, groups=4)
        self.narrower_groups = nn.Conv2d(32, 8, 3, groups=4)
        self.even = nn.Conv2d(32, 20, 1)
        self.odd = nn.Conv2d(32, 10, 1)
        self.up = nn.ConvTranspose2d(20, 16, 2)
        self.hidden = nn.Linear(16, 32)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.tied = nn.Linear(32, 32)
        self.tied_too = nn.Linear(32, 32)
        self.tied_too.weight = self.tied.weight
        self.head = nn.Linear(32, 16)


def test_convolutions_and_linear_layers_that_fit_are_pruned_and_every_other_has_its_reason():
    layers, skipped = select_layers(Mixed(), 16)
    assert list(layers) == ["pointwise", "grouped", "narrow_groups", "even", "hidden"]
    assert skipped == {
        "stem": "stem (first convolution)",
        "depthwise": "depthwise",
        "narrower_groups": "2 outputs of each of its 4 groups do not divide into blocks of 16 or 8 or 4",
        "odd": "10 outputs do not divide into blocks of 16 or 8 or 4",
        "up": "ConvTranspose2d is not supported",
        "normed": "its weight is parametrized already",
        "tied": "its weight is shared with another layer",
        "tied_too": "its weight is shared with another layer",
        "head": "classifier (last linear layer)",
    }


def test_patterns_exclude_and_include():
    layers, skipped = select_layers(Mixed(), 16, exclude=["p*wise", "hid*"], include=["stem", "head"])
    assert list(layers) == ["stem", "grouped", "narrow_groups", "even", "head"]
    assert skipped["pointwise"] == "excluded by 'p*wise'"


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(
        UserError, match="the pattern 'poinwise' matches no Conv1d, Conv2d, Linear, attention or recurrent layer"
    ):
        select_layers(Mixed(), 16, exclude=["poinwise"])


@pytest.mark.parametrize(
    "model, n, message",
    [
        (
            nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)),
            16,
            "Sequential has no Conv1d, Conv2d, Linear, attention or recurrent layer to prune",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 10, 1)),
            16,
            "n = 16 .*1: 10 outputs do not divide into blocks of 16 or 8 or 4",
        ),
        (nn.Linear(8, 16), 16, "Linear: classifier"),
    ],
)
def test_a_model_with_nothing_to_prune_is_refused_with_the_reasons(model, n, message):
    with pytest.raises(UserError, match=message):
        select_layers(model, n)


@pytest.mark.parametrize(
    "outputs, n, expected",
    [(64, 16, 16), (24, 16, 8), (40, 32, 8), (20, 16, 4), (10, 16, None), (6, 6, 6), (9, 6, None), (7, 1, 1)],
)
def test_blocks_are_narrower_where_wide_ones_do_not_fit(outputs, n, expected):
    assert block_size(Place(nn.Linear(8, outputs), "weight"), n) == expected


def test_weights_computed_from_other_parameters_stay_dense():
    model = models.create("resnet20", 10)
    prune.random_unstructured(model.layer1[0].conv1, "weight", 0.5)
    skipped = {row.name: row.reason for row in Sparsifier(model, epochs=1).summary() if row.reason}
    assert skipped["layer1.0.conv1"] == "its weight is computed from other parameters"
    alone = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 10))
    prune.random_unstructured(alone[0], "weight", 0.5)
    with pytest.raises(UserError, match="computed from other parameters"):
        Sparsifier(alone, epochs=1)
    assert not any(parametrize.is_parametrized(layer) for layer in alone)


def test_without_a_linear_layer_the_last_convolution_is_the_classifier():
    with torch.device("meta"):
        model = models.create("squeezenet1_1", 16)
    assert select_layers(model, 16)[1]["classifier.1"] == "classifier (last convolution)"
    assert "classifier.1" in select_layers(model, 16, include=["classifier.1"])[0]


def test_convolutions_along_one_axis_are_pruned_too():
    depthwise = nn.Conv1d(24, 24, 3, groups=24)
    model = nn.Sequential(nn.Conv1d(4, 16, 3), nn.Conv1d(16, 24, 5), depthwise, nn.Flatten(), nn.Linear(24, 5))
    sparsifier = Sparsifier(model, n=16, epochs=1)
    assert [(row.name, row.n, row.reason) for row in sparsifier.summary()] == [
        ("0", None, "stem (first convolution)"),
        ("1", 8, None),
        ("2", None, "depthwise"),
        ("4", None, "5 outputs do not divide into blocks of 16 or 8 or 4"),
    ]
    sparsifier.step(0)
    assert [(row.n, row.density, row.macs) for row in inspect(sparsifier.fold(), (4, 9))][1] == (
        8,
        0.25,
        3 * 24 * 16 * 5,
    )


def test_a_second_sparsifier_on_one_model_is_refused():
    model = models.create("resnet20", 10)
    Sparsifier(model, epochs=1)
    with pytest.raises(UserError, match="parametrized already"):
        Sparsifier(model, epochs=1)


@pytest.mark.parametrize(
    "name, dense", [("resnet18", {"conv1", "fc"}), ("mobilenet_v3_small", None), ("vit_b_32", None)]
)
def test_torchvision_networks_keep_stem_and_classifier_dense(name, dense):
    with torch.device("meta"):
        model = models.create(name, 1000)
    layers, skipped = select_layers(model, 8)
    if dense:
        assert set(skipped) == dense
    convolutions = [n for n, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    linears = [n for n, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    assert convolutions[0] in skipped and linears[-1] in skipped
    assert all(masking.weight_of(*place).shape[0] % 8 == 0 for place in layers.values())
