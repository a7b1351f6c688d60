"""`sparsify_` and its configuration, held against `Sparsifier`'s own arguments."""

import inspect

import pytest
import torch
from torch import nn

import subp
from subp import Budget, Choice, Pattern, SparsityConfig, Timetable

CONFIG = SparsityConfig(Pattern(n=4), Budget(sparsity=0.5), Timetable(epochs=2, start=0, end=0), seed=3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 16, 3),
        nn.ModuleDict({"a[0]": nn.Conv2d(16, 16, 1)})["a[0]"],
        nn.Flatten(),
        nn.Linear(16, 8),
    )


def test_a_config_stands_for_all_arguments_with_their_defaults():
    given = {**SparsityConfig().arguments(), "exclude": (), "include": ()}
    parameters = inspect.signature(subp.Sparsifier).parameters.values()
    named = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert given == named | {"epochs": 90}


def test_masks_are_those_of_the_same_arguments():
    one, other = network(), network()
    first = subp.sparsify_(one, CONFIG)
    second = subp.Sparsifier(other, n=4, sparsity=0.5, epochs=2, start=0, end=0, seed=3)
    for epoch in range(2):
        first.step(epoch)
        second.step(epoch)
    assert first.settings == second.settings and first.masks.keys() == second.masks.keys() == {"1", "2"}
    assert all(mask.equal(second.masks[name]) for name, mask in first.masks.items())
    assert (first.fold()[1].weight == 0).float().mean() == 0.5


def test_a_filter_decides_alone_stem_and_classifier_too():
    asked = []

    def wanted(layer: nn.Module, name: str) -> bool:
        asked.append((type(layer), name))
        return isinstance(layer, nn.Linear) or name == "1"

    sparsifier = subp.sparsify_(network(), CONFIG, wanted)
    assert asked == [(nn.Conv2d, "0"), (nn.Conv2d, "1"), (nn.Conv2d, "2"), (nn.Linear, "4")]
    assert set(sparsifier.masks) == {"1", "4"}
    odd = nn.ModuleDict({"a[0]": nn.Conv2d(8, 8, 1), "a0": nn.Conv2d(8, 8, 1)})
    assert set(subp.sparsify_(odd, CONFIG, lambda _, name: name == "a[0]").masks) == {"a[0]"}


def test_hyperparameters_reach_their_method():
    config = SparsityConfig(choice=Choice("subp", hyperparameters={"tau": 0.5}), timetable=Timetable(3))
    assert subp.sparsify_(network(), config).settings.hyperparameters == {"tau": 0.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((nn.Linear,), "model must be a torch.nn.Module"),
        ((network(), {"n": 4}), "config must be a subp.SparsityConfig"),
        ((network(), CONFIG, lambda layer, name: False), "filter_fn lets no layer through"),
        ((nn.ReLU(), CONFIG, lambda layer, name: True), "ReLU has no Conv1d, Conv2d"),
    ],
)
def test_what_is_wrong_is_told(arguments, words):
    with pytest.raises(subp.Error, match=words):
        subp.sparsify_(*arguments)
