"""The callbacks of Lightning and Hugging Face's Trainer, called as these call them (neither need be installed)."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import subp


def with_base(monkeypatch, library, module, name):
    """The integration with that library, for whose base class of callbacks an empty one stands."""
    fake = ModuleType(module)
    setattr(fake, name, type(name, (), {}))
    for part in {module, module.partition(".")[0]}:
        monkeypatch.setitem(sys.modules, part, fake)
    monkeypatch.delitem(sys.modules, f"subp.integrations.{library}", raising=False)
    found = importlib.import_module(f"subp.integrations.{library}")
    monkeypatch.delitem(sys.modules, f"subp.integrations.{library}")
    return found


@pytest.fixture
def sparsifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 8))
    return subp.Sparsifier(model, n=4, sparsity=0.5, epochs=3, start=0, end=1)


def test_lightning(monkeypatch, sparsifier):
    lightning = with_base(monkeypatch, "lightning", "lightning.pytorch", "Callback")
    callback, trainer = lightning.SparsityCallback(sparsifier), SimpleNamespace(max_epochs=3, current_epoch=0)
    callback.on_train_start(trainer, None)
    densities = []
    for trainer.current_epoch in range(3):
        callback.on_train_epoch_start(trainer, None)
        densities.append(sparsifier.density)
    assert sparsifier.epoch == 2 and densities[0] > densities[1] == densities[2] == 0.5
    saved = callback.state_dict()
    sparsifier.masks["1"].fill_(True)
    callback.load_state_dict(saved)
    assert sparsifier.density == 0.5
    for epochs in (4, -1, None):
        with pytest.raises(subp.Error, match=f"max_epochs is {epochs}, and the sparsifier was made for 3 epochs"):
            callback.on_train_start(SimpleNamespace(max_epochs=epochs), None)


def test_hugging_faces_trainer(monkeypatch, sparsifier):
    transformers = with_base(monkeypatch, "transformers", "transformers", "TrainerCallback")
    callback = transformers.SparsityCallback(sparsifier)
    callback.on_train_begin(None, SimpleNamespace(num_train_epochs=3), None, model=None)
    for epoch, steps_say in enumerate((None, 0.9999999, 2.0)):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=steps_say), None, model=None)
        assert sparsifier.epoch == epoch
    with pytest.raises(subp.Error, match="trains for 4 epochs, and the sparsifier was made for 3"):
        callback.on_train_begin(None, SimpleNamespace(num_train_epochs=3.5), None)


@pytest.mark.parametrize("library, words", [("lightning", "pip install lightning"), ("transformers", "pip install tr")])
def test_a_library_that_is_not_installed_is_told(monkeypatch, library, words):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"subp.integrations.{library}", raising=False)
    with pytest.raises(subp.Error, match=words):
        importlib.import_module(f"subp.integrations.{library}")
