import pytest
import safetensors.torch
import torch
from torch import nn

from subp import models
from subp.errors import UserError


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
    assert parameters(models.create("mobilenet_v1", 1000)) == pytest.approx(
        4.2e6, rel=0.01
    )  # arXiv 1704.04861, table 6
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
        UserError, match=r"does not fit the model: fc.weight is \[10, 64\] in the file and \[5, 64\] in the model"
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
