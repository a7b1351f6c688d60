"""Advice: predictions that fall with sparsity, and the Pareto front."""

from dataclasses import replace

import pytest
import torch

from subp import models
from subp.deployment.advice import Choice, lowered, pareto, predicted, with_zeros
from subp.models.cifar_resnet import CifarResNet
from subp.pruning.block_masks import to_blocks
from tvm_sched import precision, targets
from tvm_sched.estimation.estimate import calls
from tvm_sched.kernels import kernel_of

TARGET = replace(targets.get("x86-avx512"), cores=1)


def choices(sizes, sparsities, ghz=None):
    made = lowered(CifarResNet(8, num_classes=10), torch.zeros(1, 3, 32, 32), TARGET, sizes, sparsities)
    return predicted(made, TARGET, ghz, None)


def test_predictions_fall_with_sparsity_and_with_the_frequency():
    dense, *pruned = choices([16], [0.5, 0.75, 0.9], 1.0)
    times = [choice.ms for choice in pruned]
    assert dense.ms > times[0] > times[1] > times[2]
    assert not any(choice.measured for choice in (dense, *pruned))
    assert choices([], [], 2.0)[0].ms == pytest.approx(dense.ms / 2)


def test_in_8_bits_the_kernels_are_integers_and_the_zeros_the_same():
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Conv2d(each, 32, 1) for each in (8, 32, 32)))
    made = lowered(model, torch.randn(1, 8, 12, 12), TARGET, [16], [0.75], precision=precision.of("int8", TARGET))
    kernels = {key: [kernel_of(call.func) for call in calls(mod)] for key, mod in made.items()}
    assert all(each is None or "uint8" in each.dtypes for found in kernels.values() for each in found)
    assert [sum(each is not None for each in found) for found in kernels.values()] == [3, 3]
    dense, sparse = predicted(made, TARGET, 1.0, None)
    assert 0 < sparse.ms < dense.ms


def test_zeros_are_the_choices_own():
    model = models.create("resnet20", 10)
    model.layer2[1].conv1.weight.data.zero_()  # as a checkpoint may have them
    pruned = with_zeros(model, 8, 0.75)
    kept = to_blocks(pruned.layer2[1].conv1.weight, 8).ne(0).any(2)
    assert kept.sum(1).tolist() == [8] * 4 and not pruned.layer1[0].conv1.weight.isnan().any()
    assert pruned.conv1.weight.all() and not model.layer2[1].conv1.weight.any()


def test_the_front_holds_what_nothing_faster_reaches():
    points = [(None, 10, 0.9), (16, 5, 0.85), (8, 6, 0.84), (32, 4, 0.7), (4, 3, None)]
    choices = [Choice(n, 0.5, ms, accuracy=accuracy) for n, ms, accuracy in points]
    assert [choice.n for choice in pareto(choices)] == [32, 16, None]
