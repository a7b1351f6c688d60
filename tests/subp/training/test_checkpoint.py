import os

import pytest
import safetensors.torch
import torch
from torch import nn

from subp import Sparsifier, models
from subp.training import checkpoint
from subp.training.checkpoint import Checkpoint
from subp.training.loop import momenta, set_momenta
from subp_contract.errors import UserError

ABOUT = {
    "architecture": {"name": "resnet20", "num_classes": 4, "in_channels": 1},
    "classes": ["a", "b", "c", "é"],
    "epoch": 7,
}


def sparse_network():
    torch.manual_seed(0)
    model = models.create(**ABOUT["architecture"])
    Sparsifier(model, epochs=1).step(0)
    return model


@pytest.fixture
def saved(tmp_path):
    model = sparse_network()
    path = tmp_path / "net.safetensors"
    checkpoint.save(path, Checkpoint(model.state_dict(), {"fc.weight": torch.ones(2, 2)}, ABOUT))
    return model, path


def test_what_is_saved_is_loaded(saved):
    model, path = saved
    loaded = checkpoint.load(path)
    state = model.state_dict()
    assert loaded.model.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded.model[name].dtype == tensor.dtype and torch.equal(loaded.model[name], tensor)
    assert torch.equal(loaded.optimizer["fc.weight"], torch.ones(2, 2))
    assert loaded.metadata == ABOUT


def test_a_loaded_model_is_folded_and_computes_the_same(saved):
    model, path = saved
    x = torch.randn(2, 1, 16, 16)
    loaded, metadata = checkpoint.load_model(path)
    assert metadata == ABOUT
    assert not loaded.training
    assert type(loaded.layer1[0].conv1) is nn.Conv2d
    assert (loaded.layer1[0].conv1.weight == 0).float().mean() == 0.75
    assert torch.equal(loaded(x), model.eval()(x))


def test_a_network_of_ones_own_loads_into_the_model_given(tmp_path):
    path = tmp_path / "own.safetensors"
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    Sparsifier(model, n=4, epochs=1, include=["1"]).step(0)
    checkpoint.save(path, Checkpoint(model.state_dict(), metadata={"architecture": None}))
    with pytest.raises(UserError, match="a network of your own: pass the model"):
        checkpoint.load_model(path)
    x = torch.randn(1, 3, 2, 2)
    loaded, _ = checkpoint.load_model(path, nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)))
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(UserError, match=r"do not fit Sequential \(of another shape: 0.weight"):
        checkpoint.load_model(path, nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)))


def test_views_shared_tensors_and_other_memory_formats_are_saved(tmp_path):
    base = torch.arange(24.0).reshape(1, 4, 3, 2)
    tensors = {"a": base, "b": base, "view": base[0, 1], "last": base.contiguous(memory_format=torch.channels_last)}
    checkpoint.save(tmp_path / "c.safetensors", Checkpoint(tensors))
    loaded = checkpoint.load(tmp_path / "c.safetensors").model
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_while_saving_leaves_the_old_file_and_nothing_else(saved, monkeypatch, failing):
    _, path = saved
    before = path.read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, disk_full)
    with pytest.raises(UserError, match=r"could not write .*net.safetensors: No space left on device"):
        checkpoint.save(path, Checkpoint({"w": torch.zeros(3)}))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["net.safetensors"]


def test_saving_into_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"could not write .*: No such file or directory"):
        checkpoint.save(tmp_path / "none" / "c.safetensors", Checkpoint({}))


@pytest.mark.parametrize("length", [0, 5, 100, 50_000, -1])
def test_a_truncated_file_is_refused(saved, length):
    _, path = saved
    path.write_bytes(path.read_bytes()[:length])
    for load in (checkpoint.load, checkpoint.load_model):
        with pytest.raises(UserError, match="is truncated or not a safetensors file"):
            load(path)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        checkpoint.load(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        checkpoint.load(tmp_path)
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(UserError, match="not a safetensors file"):
        checkpoint.load(tmp_path / "text")
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of subp's"):
        checkpoint.load(tmp_path / "foreign.safetensors")
    header = {"subp": '{"version": 99}'}
    safetensors.torch.save_file({"model.w": torch.zeros(1)}, tmp_path / "newer.safetensors", metadata=header)
    with pytest.raises(UserError, match="has checkpoint format 99, this version of subp reads format 1"):
        checkpoint.load(tmp_path / "newer.safetensors")


@pytest.mark.parametrize("entry", ["{", "[]", "{}", "7"])
def test_a_damaged_description_is_told(tmp_path, entry):
    safetensors.torch.save_file({"model.w": torch.zeros(1)}, tmp_path / "c.safetensors", metadata={"subp": entry})
    with pytest.raises(UserError, match=r"c.safetensors is (damaged|no JSON)"):
        checkpoint.load(tmp_path / "c.safetensors")


def test_a_tensor_of_no_known_part_is_told(tmp_path):
    header = {"subp": '{"version": 1}'}
    safetensors.torch.save_file({"other.w": torch.zeros(1)}, tmp_path / "c.safetensors", metadata=header)
    with pytest.raises(UserError, match=r"c.safetensors is damaged: it holds a tensor 'other.w'"):
        checkpoint.load(tmp_path / "c.safetensors")


def test_a_killed_runs_partial_file_is_written_over(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    with monkeypatch.context() as killed:
        killed.setattr(os, "getpid", lambda: 1)
        killed.setattr(os, "replace", lambda *_: None)
        killed.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        checkpoint.save(path, Checkpoint({"w": torch.zeros(3)}))
    assert len(os.listdir(tmp_path)) == 1
    checkpoint.save(path, Checkpoint({"w": torch.zeros(3)}))
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_the_first_error_is_told_where_cleaning_up_fails_too(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "unlink failed")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr("pathlib.Path.unlink", fail)
    with pytest.raises(UserError, match=r"could not write .*: Not a directory"):
        checkpoint.save(tmp_path / "file" / "c.safetensors", Checkpoint({}))


@pytest.mark.parametrize(
    "name, value, told",
    [
        ("architecture", "resnet20", "architecture"),
        ("architecture", {"name": 3, "num_classes": 4}, r"architecture\.name"),
        ("architecture", {"name": "resnet20", "num_classes": "4"}, r"architecture\.num_classes"),
        ("architecture", {"name": "resnet20", "num_classes": True}, r"architecture\.num_classes"),
        ("architecture", {"name": "resnet20", "num_classes": 10**11}, r"architecture\.num_classes"),
        ("architecture", {"name": "resnet20", "num_classes": -5}, r"architecture\.num_classes"),
        ("preprocessing", {"size": 0}, r"preprocessing\.size"),
        ("classes", "cats", "classes"),
        ("classes", ["a", 2], r"classes\[1\]"),
        ("preprocessing", [1, 2], "preprocessing"),
        ("preprocessing", {"size": "24"}, r"preprocessing\.size"),
        ("preprocessing", {"mean": [0.5, "x"]}, r"preprocessing\.mean\[1\]"),
        ("sparsifier", [], "sparsifier"),
        ("config", None, "config"),
        ("epoch", "7", "epoch"),
        ("history", {}, "history"),
        ("history", [{"val_accuracy": 0.5}, {"val_accuracy": None}], r"history\[1\]\.val_accuracy"),
    ],
)
def test_metadata_of_the_wrong_kind_is_told_in_a_sentence(saved, name, value, told):
    model, path = saved
    checkpoint.save(path, Checkpoint(model.state_dict(), metadata=ABOUT | {name: value}))
    with pytest.raises(UserError, match=rf"is damaged or of another version: Expected .* - at `\$\.{told}`") as caught:
        checkpoint.load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", [{}, {"name": "resnet20"}, {"name": "resnet20", "num_classes": 4, "depth": 2}])
def test_an_architecture_of_other_entries_is_told_in_a_sentence(saved, architecture):
    model, path = saved
    checkpoint.save(path, Checkpoint(model.state_dict(), metadata=ABOUT | {"architecture": architecture}))
    with pytest.raises(UserError, match="is damaged: its architecture has the entries"):
        checkpoint.load_model(path)


def test_momenta_of_other_shapes_are_refused_whole():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saved = {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(3, 4)}
    with pytest.raises(UserError, match=r"the momentum of 1.weight is \[3, 4\]"):
        set_momenta(model, optimizer, saved)
    assert momenta(model, optimizer) == {}
    set_momenta(model, optimizer, {"0.weight": torch.ones(3, 2)})
    assert list(momenta(model, optimizer)) == ["0.weight"]
