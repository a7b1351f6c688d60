"""The sparsifier in a training loop of its user's."""

import copy
import json
import math
import os
import random

import forked_ranks
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp_contract.errors import UserError


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Flatten(),
        nn.Linear(128, 24),
        nn.Linear(24, 10),
    )


PRUNED = {"1": (32, 16), "4": (32, 16), "6": (24, 128)}  # outputs and inputs (of a group) of the layers pruned above


def train_epoch(model, optimizer, epoch, batches=2):
    draws = torch.Generator().manual_seed(epoch)
    for _ in range(batches):
        x, y = torch.randn(4, 3, 8, 8, generator=draws), torch.randint(10, (4,), generator=draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("criterion", ["l1", "l2", "bpar"])
@pytest.mark.parametrize("soft", [True, False])
def test_masks_are_exactly_uniform_after_every_step_and_reach_the_sparsity(criterion, soft):
    model = network()
    sparsifier = Sparsifier(
        model, n=8, sparsity=0.6, criterion=criterion, soft=soft, schedule="linear", epochs=6, start=1, end=4
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(6):
        sparsifier.step(epoch)
        pruned_for_good = 0.6 * min(max((epoch - 1) / 3, 0), 1)
        for name, (outputs, inputs) in PRUNED.items():
            kept = inputs - math.floor(0.6 * inputs + 1e-9) + math.floor((0.6 - pruned_for_good) * inputs + 1e-9)
            assert sparsifier.masks[name].sum(1).tolist() == [kept] * (outputs // 8)
        train_epoch(model, optimizer, epoch)
    kept = {name: inputs - math.floor(0.6 * inputs) for name, (_, inputs) in PRUNED.items()}
    sizes = {"1": 32 * 16 * 9, "4": 32 * 16 * 9, "6": 24 * 128}
    expected = sum(sizes[name] * kept[name] / PRUNED[name][1] for name in PRUNED) / sum(sizes.values())
    assert sparsifier.density == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_runs_of_any_length_end_at_the_full_sparsity(epochs):
    sparsifier = Sparsifier(network(), n=8, epochs=epochs)
    for epoch in range(epochs):
        sparsifier.step(epoch)
    assert sparsifier.density == 0.25


def test_masks_repeat_with_their_seed_whatever_the_global_generator_does():
    def masks(seed, noise):
        torch.manual_seed(noise), random.seed(noise)
        sparsifier = Sparsifier(network(), n=8, epochs=10, seed=seed)
        torch.manual_seed(noise + 1)
        sparsifier.step(3)
        return sparsifier.masks

    assert equal(masks(0, 1), masks(0, 2))
    assert not equal(masks(0, 1), masks(1, 1))


def test_masks_by_the_weights_do_not_depend_on_steps_taken_before():
    model = network()
    sparsifier, twin = (Sparsifier(each, n=8, epochs=10, scoring="weight") for each in (model, network()))
    for epoch in range(6):
        sparsifier.step(epoch)
    twin.step(5)
    assert equal(sparsifier.masks, twin.masks)


def test_layers_of_one_shape_draw_differently():
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, 1)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), *(copy.deepcopy(layer) for _ in range(3)))
    sparsifier = Sparsifier(model, n=8, epochs=10, tau=100.0)
    sparsifier.step(2)
    assert not torch.equal(sparsifier.masks["1"], sparsifier.masks["2"])


def test_a_pruned_block_that_grew_important_comes_back_after_regrowing_has_ended():
    model = network()
    sparsifier = Sparsifier(model, n=8, criterion="l1", scoring="weight", epochs=10)
    sparsifier.step(9)
    group, channel = (~sparsifier.masks["1"]).nonzero()[0].tolist()
    with torch.no_grad():
        model[1].parametrizations.weight.original[8 * group : 8 * group + 8, channel] = 100.0
    sparsifier.step(9)
    assert sparsifier.masks["1"][group, channel]


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_an_optimizer_made_before_or_after_trains_the_same_and_survives_folding(optimizer_first):
    def trained(optimizer_first):
        model = network()
        made = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)] if optimizer_first else []
        sparsifier = Sparsifier(model, n=8, epochs=4)
        optimizer = made[0] if made else torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for epoch in range(4):
            sparsifier.step(epoch)
            train_epoch(model, optimizer, epoch)
        return sparsifier.fold(), optimizer

    model, optimizer = trained(optimizer_first)
    assert equal(model.state_dict(), trained(not optimizer_first)[0].state_dict())
    before = model[1].weight.clone()
    train_epoch(model, optimizer, 0)
    assert not torch.equal(model[1].weight, before)


def test_resuming_from_its_state_continues_exactly():
    def start():
        model = network()
        return model, Sparsifier(model, n=8, epochs=6), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def run(epochs, model, sparsifier, optimizer):
        for epoch in epochs:
            sparsifier.step(epoch)
            train_epoch(model, optimizer, epoch)

    whole = start()
    run(range(6), *whole)
    first, second = start(), start()
    run(range(3), *first)
    for old, new in zip(first, second, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    assert second[1].epoch == 2 and equal(second[1].masks, first[1].masks)
    run(range(3, 6), *second)
    assert equal(whole[0].state_dict(), second[0].state_dict())
    assert equal(whole[1].masks, second[1].masks)


def test_a_state_of_other_settings_or_layers_is_refused_and_changes_nothing():
    sparsifier = Sparsifier(network(), n=8, epochs=6)
    other = Sparsifier(network(), n=8, epochs=6, tau=0.5)
    other.step(5)
    with pytest.raises(UserError, match=r"tau = 0.5, this sparsifier has 0.01"):
        sparsifier.load_state_dict(other.state_dict())
    wider = Sparsifier(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1)), n=8, epochs=6)
    with pytest.raises(UserError, match=r"the masks of the saved state .* differ: 4, 6 in one only"):
        sparsifier.load_state_dict(wider.state_dict())
    state = sparsifier.state_dict()
    state["masks"]["1"] = torch.ones(1, 16, dtype=torch.bool)
    with pytest.raises(UserError, match=r"layer 1 has a mask of \[4, 16\], the saved state one of \[1, 16\]"):
        sparsifier.load_state_dict(state)
    state["masks"]["1"] = None
    with pytest.raises(UserError, match="the mask of 1 is no tensor"):
        sparsifier.load_state_dict(state)
    state = sparsifier.state_dict()
    state["settings"]["momentum"] = 1
    with pytest.raises(UserError, match=r"the settings of the saved state .* differ: momentum in one only"):
        sparsifier.load_state_dict(state)
    assert sparsifier.density == 1 and sparsifier.epoch is None


def test_settings_from_json_are_the_same_settings():
    sparsifier = Sparsifier(network(), n=8, epochs=6, exclude=["4"])
    state = sparsifier.state_dict()
    sparsifier.load_state_dict(state | {"settings": json.loads(json.dumps(state["settings"]))})
    assert sparsifier.state_dict()["settings"] == state["settings"]


@pytest.mark.parametrize("start, end", [(None, 7), (0, 7), (8, 9), (9, 9)])
def test_a_late_start_moves_the_default_end_to_the_last_epoch(start, end):
    assert Sparsifier(network(), n=8, epochs=10, start=start).settings.end == end


def test_folding_gives_the_zeros_of_the_masks_and_ends_the_sparsifiers_work():
    sparsifier = Sparsifier(network(), n=8, epochs=6)
    sparsifier.step(5)
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    model = sparsifier.fold()
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        for g in range(mask.shape[0]):
            for i in range(mask.shape[1]):
                assert bool((weight[8 * g : 8 * g + 8, i] != 0).any()) == bool(mask[g, i])
    with pytest.raises(UserError, match="folded"):
        sparsifier.step(6)


def test_the_summary_lists_every_layer_once_in_order():
    sparsifier = Sparsifier(network(), n=8, epochs=1)
    sparsifier.step(0)
    rows = [(row.name, row.type, row.n, row.density, row.reason) for row in sparsifier.summary()]
    assert rows == [
        ("0", "Conv2d", None, 1.0, "stem (first convolution)"),
        ("1", "Conv2d", 8, 0.25, None),
        ("4", "Conv2d", 8, 0.25, None),
        ("6", "Linear", 8, 0.25, None),
        ("7", "Linear", None, 1.0, "10 outputs do not divide into blocks of 8 or 4"),
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sparsity": 1.0}, r"sparsity = 1.0 is not in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity = -0.1 is not in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"sparsity = nan is not in"),
        ({"n": 0}, "n = 0"),
        ({"n": 7}, "no layer is left to prune with n = 7"),
        ({"method": "magic"}, "there is no method 'magic': choose from subp"),
        ({"criterion": "l3"}, "there is no criterion of subp 'l3': choose from bpar, l1, l2"),
        ({"schedule": "sine"}, "there is no schedule 'sine': choose from linear, cosine"),
        ({"epochs": 0}, "epochs = 0"),
        ({"start": 2, "end": 10}, "from epoch 2 to 10, must lie within epochs 0 to 9"),
        ({"start": 5, "end": 4}, "from epoch 5 to 4"),
        ({"tau": 0.0}, "tau = 0.0"),
        ({"alpha": float("inf")}, "alpha = inf"),
        ({"decay": float("nan")}, "decay = nan"),
        ({"decay": float("inf")}, "decay = inf"),
    ],
)
def test_settings_out_of_range_are_refused_before_the_model_is_touched(options, message):
    model = network()
    with pytest.raises(UserError, match=message):
        Sparsifier(model, **({"n": 8, "epochs": 10} | options))
    assert type(model[1]) is nn.Conv2d


def test_weights_that_are_not_finite_are_named():
    model = network()
    sparsifier = Sparsifier(model, n=8, epochs=2)
    with torch.no_grad():
        model[4].parametrizations.weight.original[0, 0, 0, 0] = float("inf")
    with pytest.raises(UserError, match="4 holds weights that are not finite"):
        sparsifier.step(1)


def _rank(rank, folder):
    forked_ranks.join(rank, folder)
    model = network(seed=rank)  # made equal by DistributedDataParallel
    sparsifier = Sparsifier(model, n=8, epochs=3, tau=1.0)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(3):
        sparsifier.step(epoch)
        train_epoch(parallel, optimizer, 10 * epoch + rank)
        torch.save(copy.deepcopy(sparsifier.masks), os.path.join(folder, f"{epoch}.{rank}"))
    torch.distributed.barrier()  # a rank that leaves early may abort the other one's last exchange
    torch.distributed.destroy_process_group()


def test_data_parallel_ranks_have_equal_masks_after_every_step(tmp_path):
    forked_ranks.run(_rank, tmp_path)
    for epoch in range(3):
        first, second = (torch.load(tmp_path / f"{epoch}.{rank}") for rank in range(2))
        assert equal(first, second)


@pytest.mark.parametrize("method", ["subp", "nonuniform", "one-by-n", "random"])
def test_a_layer_that_wide_blocks_do_not_fit_takes_narrower_ones(method):
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 24, 1), nn.Conv2d(24, 32, 1), nn.Flatten(), nn.Linear(32 * 36, 10)
    )
    sparsifier = Sparsifier(model, n=16, sparsity=0.5, method=method, epochs=1, start=0, end=0)
    sparsifier.step(0)
    assert {row.name: row.n for row in sparsifier.summary() if row.n} == {"1": 8, "2": 16}
    assert {name: tuple(mask.shape) for name, mask in sparsifier.masks.items()} == {"1": (3, 32), "2": (2, 24)}
    assert sparsifier.density == pytest.approx(0.5)


def test_a_state_saved_before_a_hyperparameter_was_there_had_its_default():
    sparsifier, state = (Sparsifier(network(), n=8, epochs=6) for _ in range(2))
    state.step(3)
    saved = state.state_dict()
    assert {"n", "m", "tau", "alpha", "decay"} <= saved["settings"].keys()
    del saved["settings"]["alpha"]
    sparsifier.load_state_dict(saved)
    assert sparsifier.epoch == 3 and equal(sparsifier.masks, state.masks)
    with pytest.raises(UserError, match=r"alpha = 1.0, this sparsifier has 2.0"):
        Sparsifier(network(), n=8, epochs=6, alpha=2.0).load_state_dict(saved)
