"""State dicts as other programs save them."""

import argparse

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.models import weights
from subp.training import checkpoint
from subp_contract.errors import UserError


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2))


def same(model, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_checkpoint_of_torchvisions_training_script_loads(tmp_path):
    source, model = net(), net()
    options = argparse.Namespace(lr=0.1, model="resnet18")
    torch.save({"model": source.state_dict(), "optimizer": {}, "epoch": 3, "args": options}, tmp_path / "c.pth")
    weights.load_weights(model, tmp_path / "c.pth")
    assert same(source, model)


def test_a_state_dict_from_before_batch_norm_counted_loads(tmp_path):
    source, model = net(), net()
    source[1].running_mean += 1
    state = {name: value for name, value in source.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "w.pth")
    weights.load_weights(model, tmp_path / "w.pth")
    assert same(source, model)


def test_averages_of_masks_are_no_masks(tmp_path):
    model = net()
    Sparsifier(model, n=4, epochs=1)
    state = {name: value.double() if value.dtype == torch.bool else value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2.parametrizations.weight.0.mask is no mask but an average of some"):
        weights.load_weights(net(), tmp_path / "w.pth")


class Counting(nn.Linear):
    """A layer with state of another kind."""

    seen = (0, None)

    def get_extra_state(self):
        return {"seen": self.seen[0], "last": self.seen[1]}

    def set_extra_state(self, state):
        self.seen = state["seen"], state["last"]


def test_extra_state_of_layers_is_saved_and_loaded(tmp_path):
    source, model, plain = nn.Sequential(Counting(4, 2)), nn.Sequential(Counting(4, 2)), nn.Sequential(Counting(4, 2))
    source[0].seen = 5, torch.ones(2)
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(source.state_dict(), average=source.state_dict()))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    checkpoint.load_model(path, model)
    weights.load_weights(plain, tmp_path / "w.pth")
    for loaded in (model, plain):
        assert torch.equal(loaded[0].weight, source[0].weight)
        assert loaded[0].seen[0] == 5 and torch.equal(loaded[0].seen[1], torch.ones(2))
    weights.load_weights(plain, path)
    assert plain[0].seen[0] == 5


class Odd:
    """Neither a tensor nor a plain value."""


def test_extra_state_that_could_not_be_read_again_is_refused(tmp_path):
    model = nn.Sequential(Counting(4, 2))
    model[0].seen = 1, Odd()
    with pytest.raises(UserError, match=r"0._extra_state, of a layer's get_extra_state, holds more than tensors"):
        checkpoint.save(tmp_path / "c.safetensors", checkpoint.Checkpoint(model.state_dict()))
    assert not list(tmp_path.iterdir())
