"""The MODEL argument: checkpoints, exported programs and names become networks; anything else is told in a sentence."""

import numpy as np
import pytest
import torch

from subp import models
from subp.data.preprocessing import Preprocessing
from subp.deployment.networks import DEFAULTS, kind_of, load_network
from subp.models import weights
from subp.pruning.sparsifier import Sparsifier
from subp.training import checkpoint
from subp.training.checkpoint import Checkpoint
from subp_contract.errors import UserError

NOTHING = dict.fromkeys(DEFAULTS) | {"code": None}


def test_a_name_gives_random_weights_with_a_uniform_pattern_and_sane_outputs():
    told = []
    settings = NOTHING | {"n": 8, "sparsity": 0.5, "size": 32, "batch": 3}
    network, metadata = load_network("resnet20", settings, told.append)
    assert (network.name, network.n, network.sparsity, metadata) == ("resnet20", 8, 0.5, {})
    assert network.example_input.shape == (3, 3, 32, 32)
    assert told == ["resnet20: random weights, a random 1x8 mask, 50% pruned"]
    output = network.reference(network.example_input.numpy())
    assert 0.05 < np.abs(output).mean() < 5
    stem, classifier = network.module.conv1, network.module.fc
    assert stem.weight.count_nonzero() == stem.weight.numel()
    assert classifier.weight.count_nonzero() == classifier.weight.numel()


def test_a_seed_gives_the_same_network_again():
    small = NOTHING | {"size": 32}
    first, again, other = (load_network("resnet20", small | {"seed": seed})[0] for seed in (1, 1, 2))
    assert torch.equal(first.module.layer1[0].conv1.weight, again.module.layer1[0].conv1.weight)
    assert not torch.equal(first.module.layer1[0].conv1.weight, other.module.layer1[0].conv1.weight)


def test_sparsity_0_gives_a_dense_network():
    network, _ = load_network("resnet20", NOTHING | {"sparsity": 0.0, "size": 32})
    assert (network.n, network.sparsity) == (None, 0.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pruned checkpoint for grey images of 24x24."""
    torch.manual_seed(0)
    model = models.create("resnet20", 10, in_channels=1)
    sparsifier = Sparsifier(model, n=16, sparsity=0.75, criterion="l1", epochs=1, start=0, end=0)
    sparsifier.step(0)
    path = tmp_path_factory.mktemp("checkpoint") / "digits.safetensors"
    architecture = {"name": "resnet20", "num_classes": 10, "in_channels": 1}
    about = {"architecture": architecture, "preprocessing": {"size": 24, "channels": 1}}
    checkpoint.save(path, Checkpoint(model.state_dict(), metadata=about))
    return path


def test_a_checkpoint_gives_its_folded_network_and_image_size(saved):
    network, metadata = load_network(str(saved), NOTHING)
    assert (network.name, network.n, network.sparsity) == ("digits", 16, 0.75)
    assert network.example_input.shape == (1, 1, 24, 24)
    assert metadata["architecture"]["name"] == "resnet20"
    other, about = load_network(str(saved), NOTHING | {"size": 32, "batch": 2})
    assert other.example_input.shape == (2, 1, 32, 32)
    assert about["preprocessing"] == Preprocessing.standard(32, 1).as_dict()


def test_an_exported_program_gives_the_same_outputs(saved, tmp_path):
    network, _ = load_network(str(saved), NOTHING)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(network.module, (network.example_input,)), path)
    again, _ = load_network(str(path), NOTHING)
    assert (again.name, again.n, again.sparsity) == ("net", 16, 0.75)
    assert again.example_input.shape == network.example_input.shape
    x = network.example_input.numpy()
    np.testing.assert_allclose(again.reference(x), network.reference(x), atol=1e-6)


def test_options_of_random_weights_are_refused_for_files(saved, tmp_path):
    with pytest.raises(UserError, match="leave out --n and --seed"):
        load_network(str(saved), NOTHING | {"n": 16, "seed": 1})
    with pytest.raises(UserError, match="leave out --size"):
        torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 4),)), tmp_path / "net.pt2")
        load_network(str(tmp_path / "net.pt2"), NOTHING | {"size": 2})


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt2", "net.pth"])
def test_missing_and_broken_files_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match="there is no"):
        load_network(str(path), NOTHING)
    path.write_bytes(b"not a network" * 100)
    with pytest.raises(UserError, match=name):
        load_network(str(path), NOTHING)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2"])
def test_truncated_files_are_named(saved, tmp_path, suffix):
    whole = saved
    if suffix == ".pt2":
        whole = tmp_path / "whole.pt2"
        torch.export.save(torch.export.export(torch.nn.Linear(4, 4), (torch.zeros(1, 4),)), whole)
    path = tmp_path / f"half{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match=f"half{suffix} is truncated"):
        load_network(str(path), NOTHING)


WRAPPERS = {
    "torch.compile": lambda own: torch.compile(own).state_dict(),
    "a compiled part": lambda own: {
        name.replace("layer1.", "layer1._orig_mod."): x for name, x in own.state_dict().items()
    },
    "an average": lambda own: torch.optim.swa_utils.AveragedModel(own).state_dict(),
    "an average of a compiled one": lambda own: torch.optim.swa_utils.AveragedModel(torch.compile(own)).state_dict(),
    "Lightning": lambda own: {
        "state_dict": {f"model.{name}": x for name, x in own.state_dict().items()}
        | {"criterion.weight": torch.ones(4)},
        "epoch": 3,
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_state_dict_opens_however_its_network_was_wrapped(tmp_path, wrapper):
    own = models.create("resnet20", 4, in_channels=1).eval()
    torch.save(WRAPPERS[wrapper](own), tmp_path / "own.pth")
    network, metadata = load_network(str(tmp_path / "own.pth"), NOTHING | {"code": "resnet20", "size": 24})
    x = network.example_input
    assert x.shape == (1, 1, 24, 24) and metadata["architecture"]["num_classes"] == 4
    torch.testing.assert_close(network.module(x), own(x), rtol=0, atol=0)


def test_names_that_look_wrapped_stay_where_the_network_has_them():
    own = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 3), "bias": torch.nn.Linear(2, 3)})
    state = own.state_dict()
    assert weights.unwrapped(state, own) == state
    assert weights.unwrapped({f"module.{name}": x for name, x in state.items()}, own) == state


def test_masks_of_a_state_dict_are_folded(tmp_path):
    own = models.create("resnet20", 4)
    sparsifier = Sparsifier(own, n=16, sparsity=0.75, criterion="l1", epochs=1, start=0, end=0)
    sparsifier.step(0)
    torch.save(own.state_dict(), tmp_path / "own.pt")
    network, _ = load_network(str(tmp_path / "own.pt"), NOTHING | {"code": "resnet20", "size": 32})
    assert (network.n, network.sparsity) == (16, 0.75)


def test_a_folder_is_the_checkpoint_that_it_holds(saved, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(saved.read_bytes())
    assert kind_of(str(tmp_path)) == ("checkpoint", tmp_path / "checkpoint.safetensors")
    (tmp_path / "model.safetensors").write_bytes(saved.read_bytes())
    network, _ = load_network(str(tmp_path), NOTHING)
    assert (network.name, network.n) == ("model", 16)


@pytest.mark.parametrize("name", ["empty", "net.so", "notes.txt", "resnet81", "nowhere/net.oonx"])
def test_what_is_no_model_is_told_what_a_model_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no network")
    with pytest.raises(UserError, match=f"{name}.*give .*folder.*pt2.*onnx.*network's name.*--code"):
        load_network(name, NOTHING)


def test_a_state_dict_needs_its_network(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"own\.pth holds weights without their network: say which by --code NAME"):
        load_network(str(tmp_path / "own.pth"), NOTHING)
    torch.save(torch.nn.Linear(2, 3), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"own.pth holds objects besides tensors.* save model.state_dict\(\)"):
        load_network(str(tmp_path / "own.pth"), NOTHING | {"code": "resnet20"})
