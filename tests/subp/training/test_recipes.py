"""What torchvision's recipes offer beside plain training, one option at a time, on a network of a few weights."""

import functools
import resource
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from subp.data import loaders, transforms
from subp.pruning.methods import METHODS
from subp.training import checkpoint, loop, trainer
from subp.training.config import AUTO_AUGMENT, Config
from subp.training.precision import Precision
from subp.training.progress import Progress
from subp_contract.errors import UserError

CONFIG = Config(n=4, epochs=2, batch_size=8, lr=0.1, seed=2)


def images(count, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 12, 12, generator=draws), torch.arange(count) % 3


DATA = loaders.from_tensors(images(32, 0), images(9, 1), list("abc"))


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )


def train(model=None, **options):
    run = {name: options.pop(name) for name in ("output", "progress", "resume") if name in options}
    return trainer.train(DATA, replace(CONFIG, **options), model=model or net(), **run)


@pytest.fixture(scope="module")
def plain():
    return train()


@pytest.mark.parametrize(
    "option, tolerance",
    [({"amp": "bf16"}, 0.06), ({"amp": "fp16"}, 0.008), ({"channels_last": True}, 1e-5), ({"compile": True}, 1e-5)],
    ids=lambda option: next(iter(option)) if isinstance(option, dict) else "",
)
def test_other_ways_to_compute_give_the_same_weights_up_to_their_precision(plain, option, tolerance, monkeypatch):
    # All of torch.compile but the C++ compiler, which would take half a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = train(**option).model
    assert [type(layer) for layer in model] == [type(layer) for layer in plain.model]
    for name, expected in plain.model.state_dict().items():
        got = model.state_dict()[name]
        assert got.dtype == expected.dtype
        error = (got - expected).double().norm() / expected.double().norm().clamp_min(1e-2)
        assert error <= tolerance, name


class Recording(Progress):
    """Keeps the trained weight of each step."""

    def __init__(self, model):
        super().__init__(Console(quiet=True))
        self.model, self.weights = model, []

    def advance(self):
        self.weights.append(self.model[2].parametrizations.weight.original.detach().clone())


def test_averaged_weights_are_those_of_the_formula_and_are_delivered_under_the_mask(tmp_path):
    model = net()
    recording = Recording(model)
    result = train(model, ema=0.8, output=tmp_path, progress=recording)
    average = recording.weights[0]
    for weight in recording.weights[1:]:
        average = 0.8 * average + 0.2 * weight
    saved = checkpoint.load(tmp_path / trainer.CHECKPOINT)
    torch.testing.assert_close(saved.average["2.parametrizations.weight.original"], average)
    mask = saved.model["2.parametrizations.weight.0.mask"].repeat_interleave(4, 0)[..., None, None]
    torch.testing.assert_close(result.model[2].weight.detach(), torch.where(mask, average, 0))
    for file in (trainer.CHECKPOINT, trainer.MODEL):
        loaded = checkpoint.load_model(tmp_path / file, net())[0]
        assert all(torch.equal(loaded.state_dict()[name], t) for name, t in result.model.state_dict().items())
    val = loaders.batches(loaders.val_batches(DATA, loaders.Loading(9)))
    assert loop.evaluate(loaded, val)["val_loss"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_averaged_weights_fold_by_every_method(method):
    result = train(method=method, sparsity=0.5, ema=0.8, accumulate=2)
    weight = result.model[2].weight
    assert type(result.model[2]) is nn.Conv2d and weight.count_nonzero() / weight.numel() == 0.5
    val = loaders.batches(loaders.val_batches(DATA, loaders.Loading(9)))
    assert loop.evaluate(result.model, val)["val_loss"] == pytest.approx(result.history[-1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize("ema", [0.0, 0.95])
def test_n_to_m_masks_are_those_of_the_weights_delivered(tmp_path, ema):
    result = train(method="sr-ste", sparsity=0.5, ema=ema, output=tmp_path)
    saved = checkpoint.load(tmp_path / trainer.CHECKPOINT)
    weight = (saved.average or saved.model)["2.parametrizations.weight.original"]
    of_four = weight.reshape(8, 2, 4, 3, 3)
    second = of_four.abs().sort(2, descending=True).values[:, :, 1:2]
    expected = torch.where(of_four.abs() >= second, of_four, 0).reshape(weight.shape)
    assert torch.equal(result.model[2].weight.detach(), expected)
    assert torch.equal(checkpoint.load_model(tmp_path / trainer.CHECKPOINT, net())[0][2].weight, expected)


@pytest.mark.parametrize("mixup, cutmix", [(0.4, 0.0), (0.0, 1.0)])
def test_mixed_images_and_labels_are_made_of_two_in_the_same_proportion(mixup, cutmix):
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 32, 32)
    mixing = transforms.mixing(4, mixup, cutmix)
    (got, labels), (again, _) = (next(loaders.mixed([(x, torch.arange(4))], mixing, 7)) for _ in range(2))
    assert torch.equal(got, again)
    assert labels.shape == (4, 4) and torch.allclose(labels.sum(1), torch.ones(4))
    # Images hold their label's number everywhere, so the mean of a mixed one is its labels' mean.
    torch.testing.assert_close(got.mean((1, 2, 3)), labels @ torch.arange(4.0))
    assert (labels.max(1).values < 1).all()


def test_mixing_erasing_and_policies_train_and_repeat():
    for options in ({"mixup": 0.2, "cutmix": 1.0}, {"random_erase": 0.5}, {"auto_augment": "rand"}):
        first, second = (train(**options, workers=workers).history[-1]["train_loss"] for workers in (0, 1))
        assert first == second
        assert 0.5 < first < 2.0


def test_erasing_blanks_one_rectangle():
    about = DATA.preprocessing
    image = torch.rand(1, 12, 12) * 0.4
    torch.manual_seed(1)
    erased = transforms.augmentation(about, mirror=False, random_erase=1.0)(image)
    rows, columns = ((erased[0] == 0).any(dim) for dim in (1, 0))
    blank = erased[0][rows][:, columns]
    assert blank.numel() and (blank == 0).all() and 0 < blank.numel() < 144


@pytest.mark.parametrize("policy", AUTO_AUGMENT)
def test_every_policy_takes_images_of_any_kind(policy):
    transform = transforms.augmentation(DATA.preprocessing, mirror=True, auto_augment=policy)
    for image in (torch.rand(1, 16, 14), torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)):
        assert transform(image).shape == (1, 12, 12)


def test_tensorboard_has_a_point_an_epoch_also_after_a_resumption(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train(output=tmp_path, tensorboard=True, epochs=3)
    train(output=tmp_path, tensorboard=True, epochs=3, resume=True)
    events = reader.EventAccumulator(str(tmp_path / trainer.TENSORBOARD))
    events.Reload()
    for name in ("train_loss", "val_accuracy", "images_per_s", "density"):
        points = [(point.step, point.value) for point in events.Scalars(name)]
        assert points == [(row["epoch"] + 1, pytest.approx(row[name], rel=1e-5)) for row in result.history]


def test_tensorboard_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"TensorBoard is not installed: pip install 'subp-cpu\[tensorboard\]'"):
        train(output=tmp_path, tensorboard=True)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_resumes(tmp_path):
    class Fills(Progress):
        def epoch(self, row):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = train(output=tmp_path / "whole", epochs=3)
    try:
        with pytest.raises(
            UserError, match=r"could not write .*checkpoint.safetensors: File too large; what was there"
        ):
            train(output=tmp_path / "full", epochs=3, progress=Fills(Console(quiet=True)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(tmp_path / "full" / trainer.CHECKPOINT).metadata["epoch"] == 1
    resumed = train(output=tmp_path / "full", epochs=3, resume=True)
    assert all(torch.equal(resumed.model.state_dict()[name], t) for name, t in whole.model.state_dict().items())


def test_a_device_without_the_precision_is_told():
    with pytest.raises(UserError, match="the device meta cannot compute in bf16"):
        Precision("bf16", False, torch.device("meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(UserError, match=r"the device 'cuda' cannot be used: .* not on this machine"):
        train(device="cuda")


def test_a_network_of_several_outputs_is_told():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x), x

    with pytest.raises(UserError, match="the network gives a tuple, and training needs one tensor"):
        train(Several())


def test_a_network_of_other_classes_is_told():
    model = net()
    model[-1] = nn.Linear(8, 5)
    with pytest.raises(UserError, match=r"the network gives \[5\] outputs an image, and the data has 3 classes"):
        train(model)
