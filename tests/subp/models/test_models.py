import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from subp import Sparsifier, models
from subp.deployment.networks import load_coded
from subp.training import checkpoint
from subp_contract.errors import UserError


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("depth", [20, 32])
def test_cifar_resnets_have_their_layers_and_weights(depth):
    m = (depth - 2) // 6
    model = models.create(f"resnet{depth}", 10)
    kernels = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    assert len(kernels) + 1 == depth
    stages = {
        16: 2 * m * 9 * 16 * 16,
        32: 9 * 32 * 16 + (2 * m - 1) * 9 * 32 * 32,
        64: 9 * 64 * 32 + (2 * m - 1) * 9 * 64 * 64,
    }
    norms = 2 * (16 + 2 * m * (16 + 32 + 64))
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert parameters(model) == 9 * 3 * 16 + sum(stages.values()) + norms + shortcuts + 65 * 10
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_mobilenet_v1_has_the_papers_size():
    # arXiv 1704.04861, table 6.
    assert parameters(models.create("mobilenet_v1", 1000)) == pytest.approx(4.2e6, rel=0.01)
    assert parameters(models.create("mobilenet_v1_x0_25", 1000)) == pytest.approx(0.5e6, rel=0.1)
    assert models.create("mobilenet_v1_x0_5", 7)(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v1_x0_25", "resnet18", "squeezenet1_1"])
def test_networks_take_other_input_channels(name):
    assert models.create(name, 5, in_channels=1)(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


def test_an_unknown_name_is_refused_with_a_hint():
    with pytest.raises(UserError, match="there is no model 'resent18': did you mean resnet18"):
        models.create("resent18", 10)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_from_a_local_file(tmp_path, suffix):
    source, path = models.create("resnet20", 10), tmp_path / f"weights{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    loaded = models.create("resnet20", 10, weights_file=path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in source.state_dict().items())
    with pytest.raises(
        UserError,
        match=r"does not fit the model \(of another shape: fc.weight is \[10, 64\] in the file and \[5, 64\] in",
    ):
        models.create("resnet20", 5, weights_file=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a readable state dict file"):
        models.create("resnet20", 10, weights_file=path)
    with pytest.raises(UserError, match="there is no file"):
        models.create("resnet20", 10, weights_file=tmp_path / "none.pth")


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="something other than a state dict"):
        models.create("resnet20", 10, weights_file=tmp_path / "other.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match="is not a readable state dict file: it is empty or cut short"):
        models.create("resnet20", 10, weights_file=tmp_path / "empty.pth")


def test_weights_of_another_architecture_are_refused_with_the_first_names(tmp_path):
    torch.save(models.create("resnet20", 10).state_dict(), tmp_path / "w.pth")
    message = r"missing: layer1.3.conv1.weight, .*, .* and \d+ more\)$"
    with pytest.raises(UserError, match=message):
        models.create("resnet32", 10, weights_file=tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"\(missing: .* more; unknown: .* more"):
        models.create("mobilenet_v1_x0_25", 10, weights_file=tmp_path / "w.pth")


@pytest.mark.parametrize(
    "wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {f"module.{name}": value for name, value in s.items()}]
)
def test_weights_load_from_what_training_scripts_save(tmp_path, wrap):
    source = models.create("resnet20", 10)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    assert torch.equal(models.create("resnet20", 10, weights_file=tmp_path / "w.pth").fc.weight, source.fc.weight)


def test_weights_load_folded_from_a_checkpoint(tmp_path):
    source = models.create("resnet20", 10)
    sparsifier = Sparsifier(source, epochs=1)
    sparsifier.step(0)
    checkpoint.save(tmp_path / "c.safetensors", checkpoint.Checkpoint(source.state_dict()))
    loaded = models.create("resnet20", 10, weights_file=tmp_path / "c.safetensors").state_dict()
    folded = sparsifier.fold().state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in folded.items())


def test_weights_load_from_a_checkpoint_as_they_were_averaged(tmp_path):
    states = [models.create("resnet20", 10).state_dict() for _ in range(2)]
    checkpoint.save(tmp_path / "c.safetensors", checkpoint.Checkpoint(states[0], average=states[1]))
    loaded = models.create("resnet20", 10, weights_file=tmp_path / "c.safetensors")
    assert torch.equal(loaded.fc.weight, states[1]["fc.weight"])


OWN_FILE = """
from torch import nn
import parts


def build(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, parts.WIDTH, 3), nn.Flatten(), nn.LazyLinear(num_classes))


def wrong(classes):
    return nn.Linear(3, classes)


def no_network(num_classes, in_channels):
    return num_classes


def failing(num_classes, in_channels):
    raise ValueError("no such width")
"""


@pytest.fixture
def own_file(tmp_path):
    (tmp_path / "own_network.py").write_text(OWN_FILE)
    (tmp_path / "parts.py").write_text("WIDTH = 8")
    return tmp_path / "own_network.py"


def test_a_network_of_ones_own_comes_from_a_function_in_a_file(own_file):
    model = models.create(f"{own_file}:build", 5, in_channels=1)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    for function, message in (
        ("absent", "has no function 'absent'"),
        ("wrong", "must be callable with num_classes and in_channels"),
        ("no_network", "returns int, not a torch.nn.Module"),
        ("failing", "fails in line 19: ValueError: no such width"),
    ):
        with pytest.raises(UserError, match=message):
            models.create(f"{own_file}:{function}", 5)
    with pytest.raises(UserError, match="there is no file"):
        models.create("nowhere.py:build", 5)
    own_file.write_text("import parts\ndef build(:")
    with pytest.raises(UserError, match="fails in line 2: SyntaxError"):
        models.create(f"{own_file}:build", 5)


def test_a_checkpoint_runs_no_file_that_it_names(own_file, tmp_path):
    name = f"{own_file}:build"
    model = models.create(name, 5)
    model(torch.zeros(2, 3, 8, 8))
    about = {"architecture": {"name": name, "num_classes": 5, "in_channels": 3}}
    checkpoint.save(tmp_path / "c.safetensors", checkpoint.Checkpoint(model.state_dict(), metadata=about))
    with pytest.raises(UserError, match=r"on the command line by --code .*:build"):
        checkpoint.load_model(tmp_path / "c.safetensors")
    loaded, _ = load_coded(tmp_path / "c.safetensors", name)
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_timm_has_networks_too_where_it_is_installed():
    pytest.importorskip("timm", exc_type=ImportError)
    model = models.create("timm/mobilenetv3_small_050", 7, in_channels=1)
    assert model.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(UserError, match="timm has no model 'resnet19': did you mean timm/resnet1"):
        models.create("timm/resnet19", 7)


def test_without_timm_its_networks_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"needs timm: pip install 'subp-cpu\[timm\]'"):
        models.create("timm/resnet18", 7)
