"""Training for 8 bits: the last epochs of a run, on a network of a few weights."""

from dataclasses import replace

import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from subp.cli import exit_code
from subp.data import loaders
from subp.deployment import networks
from subp.deployment.low_precision import InFloat16
from subp.training import checkpoint, trainer
from subp.training.config import Config
from subp.training.run import TrainingRun
from subp_contract.errors import UserError

CONFIG = Config(n=4, epochs=3, qat=1, batch_size=8, lr=0.1, label_smoothing=0.0, seed=2)
KEPT = 4  # of 16 channels at 75 %


def images(count, seed):
    """A third of the images is bright at the left, a third at the right, a third nowhere."""
    draws, labels = torch.Generator().manual_seed(seed), torch.arange(count) % 3
    pixels = torch.rand(count, 1, 12, 12, generator=draws) / 2
    pixels[labels == 0, :, :, :6] += 0.4
    pixels[labels == 1, :, :, 6:] += 0.4
    return pixels, labels


DATA = loaders.from_tensors(images(48, 0), images(15, 1), list("abc"))


class Net(nn.Module):
    """Two ways with one sum; a batch norm in training takes torchao seconds to fold, so most tests do without."""

    def __init__(self, norm=nn.Identity):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, stride=2), norm(16)
        self.conv, self.point = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16 * 25, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.fc((torch.relu(self.conv(x)) + self.point(x)).flatten(1))


def net(norm=nn.Identity):
    torch.manual_seed(0)
    return Net(norm)


def make(num_classes, in_channels):
    """For the command line."""
    return net()


def train(norm=nn.Identity, **options):
    run = {name: options.pop(name) for name in ("output", "resume", "model") if name in options}
    return trainer.train(DATA, replace(CONFIG, **options), model=run.pop("model", None) or net(norm), **run)


def right(model):
    """(the fraction of the validation images that the model knows, its logits)."""
    pixels, labels = images(15, 1)
    mean, std = (torch.tensor(DATA.preprocessing.as_dict()[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        logits = model((pixels - mean) / std)
    return (logits.argmax(1) == labels).float().mean().item(), logits


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, result) of a run with a batch norm."""
    output = tmp_path_factory.mktemp("runs") / "qat"
    return output, train(nn.BatchNorm2d, epochs=6, qat=2, output=output)


def test_the_quantised_network_is_what_the_last_epoch_tells_of(run):
    output, result = run
    assert [row["epoch"] for row in result.history] == list(range(6))
    assert {row["density"] for row in result.history[3:]} == {0.25}
    program = result.program.module(check_guards=False)
    assert right(program)[0] == pytest.approx(result.history[-1]["val_accuracy"], abs=1e-6)
    assert result.history[-1]["val_accuracy"] > 0.8
    loaded, metadata = checkpoint.load_model(output / trainer.MODEL)
    x = torch.randn(5, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    assert torch.equal(loaded.eval()(x), program(x)) and metadata["classes"] == list("abc")
    found, expected = right(program)[1], right(result.model)[1]  # the network in float32 whose weights it rounds
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_weights_are_rounded_by_their_own_ranges_and_zeros_stay(run):
    _, result = run
    state = dict(result.program.state_dict)
    for name in ("conv", "point", "fc"):  # without a batch norm: as they are
        weight = result.model.get_parameter(f"{name}.weight").detach()
        scale = weight.flatten(1).abs().amax(1) / 127
        rounded = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round()
        assert state[f"{name}.weight"].dtype == torch.int8
        assert torch.allclose(state[f"{name}.weight_scale"].float(), scale, rtol=1e-5)
        assert (state[f"{name}.weight"] - rounded).abs().max() <= 1  # halves may fall either way
        assert (state[f"{name}.weight"] == rounded).float().mean() > 0.999
    for name in ("conv", "point"):
        kept = (result.model.get_parameter(f"{name}.weight") != 0).flatten(2).any(2)
        groups = kept.reshape(4, 4, 16)
        assert (groups == groups[:, :1]).all() and (groups[:, 0].sum(1) == KEPT).all()
        assert not state[f"{name}.weight"].flatten(2).any(2)[~kept].any()


def test_a_run_that_was_cut_off_goes_on_bit_by_bit(tmp_path, monkeypatch):
    options = {"epochs": 4, "qat": 2, "ema": 0.5, "mixup": 0.2, "hyperparameters": {"tau": 1.0}}
    train(output=tmp_path / "whole", **options)
    go_on = TrainingRun.epoch

    def cut_off(run, epoch, progress):
        if epoch == stop:
            raise KeyboardInterrupt
        go_on(run, epoch, progress)

    monkeypatch.setattr(TrainingRun, "epoch", cut_off)
    for stop in (1, 2, 3):  # before, at and after the first quantised epoch
        with pytest.raises(KeyboardInterrupt):
            train(output=tmp_path / "parts", resume=stop > 1, **options)
    stop = None
    train(output=tmp_path / "parts", resume=True, **options)
    for name in (trainer.CHECKPOINT, trainer.MODEL):
        whole, parts = (checkpoint.load(tmp_path / folder / name) for folder in ("whole", "parts"))
        for part in ("model", "optimizer", "average"):
            ours, theirs = getattr(whole, part), getattr(parts, part)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        for ours, theirs in zip(whole.metadata["history"], parts.metadata["history"], strict=True):
            assert ours | {"images_per_s": 0} == theirs | {"images_per_s": 0}
    x = torch.randn(3, 1, 12, 12)
    ours, theirs = (checkpoint.load_model(tmp_path / folder / trainer.MODEL)[0](x) for folder in ("whole", "parts"))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"amp": "bf16", "channels_last": True, "accumulate": 2, "ema": 0.9, "label_smoothing": 0.1, "cutmix": 1.0},
        {"amp": "fp16", "sparsity": 0.5, "method": "nonuniform", "warmup_epochs": 1},
        {"method": "sr-ste", "sparsity": 0.5},
    ],
    ids=str,
)
def test_other_options_go_with_it(options):
    result = train(**options)
    assert right(result.program.module(check_guards=False))[0] == pytest.approx(
        result.history[-1]["val_accuracy"], abs=1e-6
    )
    zeros = (result.model.conv.weight == 0).float().mean()
    assert zeros == pytest.approx(options.get("sparsity", 0.75))


def test_a_trained_network_can_be_trained_for_8_bits_alone():
    trained = train(epochs=4, qat=0).model
    before = trained.conv.weight.detach().clone()
    after = train(model=trained, epochs=1, qat=1, lr=0.01).model.conv.weight.detach()
    assert torch.equal(after == 0, before == 0) and (before == 0).float().mean() == 0.75
    assert 0 < (after - before).abs().max() < 0.2 * before.abs().max()
    with pytest.raises(UserError, match="all 2 epochs train for 8 bits: begin with weights"):
        trainer.train(DATA, Config(model="resnet20", epochs=2, qat=2))


def test_groups_keep_multiples_of_four_by_default():
    assert CONFIG.sparsifier_options()["multiple"] == 4
    assert replace(CONFIG, multiple=1).sparsifier_options()["multiple"] == 1
    assert replace(CONFIG, qat=0).sparsifier_options()["multiple"] is None
    assert replace(CONFIG, method="magnitude").sparsifier_options()["multiple"] is None
    assert CONFIG.sparsifier_options()["epochs"] == 2  # so the schedule ends before


class Untraceable(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="qat = 4: there are only 3 epochs"):
        replace(CONFIG, qat=4)
    with pytest.raises(UserError, match="end = 2: masks are settled before the last 1 of 3 epochs"):
        replace(CONFIG, end=2)
    with pytest.raises(UserError, match=r"torch.export can trace for any number of images"):
        train(model=Untraceable(), epochs=2)
    one_axis = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 8, 3), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 3, 1))
    with pytest.raises(UserError, match="nothing to quantise"):
        train(model=nn.Sequential(*one_axis, nn.AdaptiveAvgPool1d(1), nn.Flatten()), epochs=2)


def test_the_command_leaves_a_checkpoint_that_deploys(tmp_path, capsys):
    out, code = tmp_path / "run", f"{__file__}:make"
    many = torch.Generator().manual_seed(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in "abc":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (12, 12), generator=many, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(tmp_path / "data" / split / name / f"{i}.png")
    words = ["train", str(tmp_path / "data"), "--model", code, "--n", "4", "--epochs", "2", "--batch-size", "4"]
    assert exit_code([*words, "--qat", "1", "-o", str(out), "--threads", "1"]) == 0
    assert "the last 1 of 2 epochs train for 8 bits" in capsys.readouterr().out
    assert exit_code(["export", str(out / "model.safetensors"), "-o", str(tmp_path / "q.pt2")]) == 0
    assert exit_code(["export", str(tmp_path / "q.pt2"), "-o", str(tmp_path / "q.onnx")]) == 0
    assert {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node} >= {"QuantizeLinear", "Conv", "Add"}
    settings = dict.fromkeys(("n", "sparsity", "seed", "size", "batch", "code"))
    stored, metadata = networks.load_network(str(tmp_path / "q.pt2"), settings)
    held, _ = networks.load_network(str(out / "model.safetensors"), settings | {"batch": 2})
    x = torch.randn(2, 1, 12, 12)
    assert metadata["classes"] == list("abc")
    assert torch.allclose(stored.eager(x[:1]), held.eager(x)[:1], atol=1e-6)
    assert exit_code(["compile", str(out / "model.safetensors"), "--size", "24", "-o", str(tmp_path / "n.so")]) == 2
    assert exit_code(["inspect", str(out / "checkpoint.safetensors")]) == 2
    told = capsys.readouterr().err
    assert "quantised for images of 12 pixels" in told and "resume it to its end" in told
    assert exit_code([*words, "--qat", "3", "-o", str(tmp_path / "other")]) == 2


def test_float16_is_simulated_operator_by_operator():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).eval()
    layer.weight.data[0, 1] = -0.5  # so that what is infinite is positive, and stays
    x = torch.tensor([[1.0003, -70000.0, 0.3], [2.00051, 3.3, 1e-9]])
    with torch.no_grad():
        found = InFloat16(nn.Sequential(layer, nn.ReLU()))(x)
        weight, bias = layer.weight.half().float(), layer.bias.half().float()
        expected = (x.half().float() @ weight.T + bias).half().relu().float()
    assert torch.equal(found.nan_to_num(), expected.nan_to_num()) and found[0].abs().max() == torch.inf
