"""Settings given as NumPy's and PyTorch's numbers, and single patterns."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.common.seeds import derived_seed
from subp.training.config import Config
from subp_contract.errors import UserError


def make(epoch=1, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2))
    sparsifier = Sparsifier(model, **({"n": 4, "sparsity": 0.75, "epochs": 4, "seed": 1, "tau": 1.0} | options))
    sparsifier.step(epoch)
    return sparsifier


@pytest.mark.parametrize(
    "options",
    [
        {"epoch": np.int64(1)},
        {"epoch": torch.tensor(1)},
        {"n": np.int32(4), "seed": np.int64(1)},
        {"epochs": np.int64(4), "sparsity": np.float32(0.75)},
        {"tau": np.float64(1.0), "soft": np.bool_(True), "start": np.int64(0), "end": torch.tensor(2)},
    ],
)
def test_numbers_of_other_libraries_are_numbers(options):
    expected, sparsifier = make(), make(**options)
    settings = sparsifier.state_dict()["settings"]
    assert json.loads(json.dumps(settings)) == json.loads(json.dumps(expected.state_dict()["settings"]))
    assert sparsifier.epoch == 1 and type(sparsifier.epoch) is int
    assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in expected.masks.items())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epoch": 1.5}, "epoch must be a whole number from 0 to 3, not 1.5"),
        ({"epochs": "4"}, "epochs must be a whole number, not '4'"),
        ({"n": True}, "n must be a whole number, not True"),
        ({"sparsity": "0.75"}, "sparsity must be a number, not '0.75'"),
    ],
)
def test_what_is_no_number_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_a_trainings_settings_are_json_whatever_they_were_given_as():
    config = Config(
        epochs=np.int64(2),
        lr=np.float32(0.5),
        accumulate=torch.tensor(2),
        hyperparameters={"tau": np.float64(1)},
        exclude="layer1*",
    )
    assert config == Config(epochs=2, lr=0.5, accumulate=2, hyperparameters={"tau": 1.0}, exclude=("layer1*",))
    assert json.loads(json.dumps(config.as_dict()))["exclude"] == ["layer1*"]
    with pytest.raises(UserError, match=r"lr must be a number, not '0.1'"):
        Config(lr="0.1")


def test_a_pattern_may_stand_by_itself():
    assert [row.reason for row in make(exclude="2").summary() if row.name == "2"] == ["excluded by '2'"]
    assert list(make(include="0").masks) == ["0", "1", "2"]


def test_seeds_of_equal_numbers_are_equal():
    assert derived_seed(np.int64(3), "order", torch.tensor(2)) == derived_seed(3, "order", 2)
