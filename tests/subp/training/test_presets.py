"""Presets as published: the rule of the SUBP authors' code, written down again and replayed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.cli.options.method import with_preset
from subp.common.seeds import generator
from subp.training.config import Config
from subp_contract.errors import UserError

N, ALPHA, TAU, START, END, EPOCHS = 4, 1.0, 1.0, 10, 180, 250
PRESET, RATE = "resnet50-2.0g", 66 / 128


def bpar(blocks):
    """S_i = |w_i|_1 / sum_j |w_j|_1 - alpha * R_i of one group's blocks [C, elements]; of a masked block R_i = 1."""
    lengths = np.linalg.norm(blocks, axis=1)
    units = np.divide(blocks, lengths[:, None], out=np.zeros_like(blocks), where=lengths[:, None] > 0)
    redundancy = np.abs(units @ units.T).sum(1)
    share = np.where(lengths > 0, redundancy / redundancy.sum(), 1.0)
    magnitude = np.abs(blocks).sum(1)
    return magnitude / magnitude.sum() - ALPHA * share


def epoch_of_theirs(weight, mask, epoch, noise):
    """The mask [G, C] after the one given, of a weight [O, C, kh, kw]. noise(shape): that of the draws, exponential."""
    groups, channels = mask.shape
    x = min(max((epoch - START) / (END - START), 0.0), 1.0)
    pruned, regrown = int(RATE * channels), int((RATE - RATE * x**3) * channels)
    draws = noise((groups, pruned)) if regrown else None
    new = np.ones_like(mask)
    for group in range(groups):
        rows = weight[N * group : N * group + N].reshape(N, channels, -1).transpose(1, 0, 2).reshape(channels, -1)
        scores = bpar(rows * mask[group, :, None])
        lowest = np.argsort(scores, kind="stable")[:pruned]
        new[group, lowest] = False
        if regrown:  # without replacement, in proportion to the softmax: the largest of logits + Gumbel noise
            logits = scores[lowest] / np.linalg.norm(scores[lowest]) / TAU
            new[group, lowest[np.argsort(np.log(draws[group]) - logits, kind="stable")[:regrown]]] = True
    return new


def test_three_epochs_of_the_authors_rule_give_the_same_masks():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 32, 1), nn.Flatten(), nn.Linear(32 * 16, 4)
    )
    weights = {name: model[int(name)].weight.detach().double().numpy().copy() for name in ("1", "2")}
    config = Config.of(with_preset(PRESET, {"n": N, "seed": 5}, as_published=True))
    sparsifier = Sparsifier(model, **config.sparsifier_options())
    masks = {name: np.ones((weight.shape[0] // N, weight.shape[1]), bool) for name, weight in weights.items()}
    seen = []
    for epoch in (60, 120, 170, 190):  # and one after the climb
        sparsifier.step(epoch)
        for name, weight in weights.items():

            def noise(shape, draws=generator(5, "mask", name, epoch)):  # noqa: B008
                return torch.empty(shape).exponential_(generator=draws).double().numpy()

            masks[name] = epoch_of_theirs(weight, masks[name], epoch, noise)
            assert np.array_equal(masks[name], sparsifier.masks[name].numpy()), (name, epoch)
        seen.append(masks["2"].copy())
    assert seen[0].sum() > seen[1].sum() > seen[2].sum() > seen[3].sum()  # the draws and counts were put to use
    assert (seen[2] & ~seen[1]).any()  # and blocks came back


def test_as_published_sets_what_the_authors_code_does_and_other_options_still_hold():
    config = Config.of(with_preset(PRESET, {}, as_published=True))
    assert (config.epochs, config.batch_size, config.schedule, config.sparsity) == (EPOCHS, 512, "cubic", RATE)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16, 4))
    settings = Sparsifier(model, **config.sparsifier_options()).settings
    assert (settings.start, settings.end, settings.soft, settings.scoring) == (START, END, True, "masked")
    assert settings.as_dict().items() >= {"criterion": "bpar", "tau": TAU, "alpha": ALPHA, "decay": 2e-4}.items()
    shorter = Config.of(with_preset(PRESET, {"epochs": 25, "tau": 0.5, "target_macs": 0.5}, as_published=True))
    assert (shorter.epochs, shorter.hyperparameters["tau"], shorter.sparsity) == (25, 0.5, None)
    assert Config.of(with_preset(PRESET, {})).schedule == Config.schedule
    assert math.isclose(shorter.hyperparameters["decay"], 2e-4)


def test_as_published_needs_a_preset():
    with pytest.raises(UserError, match="--as-published is said of a preset: give --preset, too"):
        with_preset(None, {}, as_published=True)
