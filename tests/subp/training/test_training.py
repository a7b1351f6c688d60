import csv
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

import subp
from subp.data import loaders
from subp.training import checkpoint, loop, trainer
from subp.training.config import Config
from subp.training.progress import Progress
from subp.training.run import make_sparsifier
from subp_contract.errors import UserError


def patterns(count, seed):
    """Noisy images of four classes that are learnt at once: stripes across, stripes down, a chequerboard, grey."""
    draws = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    kinds = torch.stack([y % 2, x % 2, (x + y) % 2, torch.full((16, 16), 0.5)])
    labels = torch.arange(count) % 4
    return (0.8 * kinds[labels] + 0.2 * torch.rand(count, 16, 16, generator=draws)).unsqueeze(1), labels


DATA = loaders.from_tensors(patterns(64, 0), patterns(32, 1), list("abcd"))
CONFIG = Config(model="resnet20", n=8, epochs=4, batch_size=16, lr=0.05, seed=3)


class Dropping(nn.Module):
    """A network that draws from the global generator in training."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2)
        self.conv = nn.Conv2d(8, 16, 3, stride=2)
        self.norm = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(torch.relu(self.stem(x)))))
        return self.fc(nn.functional.dropout(x.mean((2, 3)), 0.5, self.training))


def dropping():
    torch.manual_seed(0)
    return Dropping()


class Interrupted(Exception):
    pass


class InterruptAfter(Progress):
    def __init__(self, epochs):
        super().__init__(Console(quiet=True))
        self.left = epochs

    def epoch(self, row):
        self.left -= 1
        if not self.left:
            raise Interrupted


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_speed(history):
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in history]


@pytest.mark.parametrize("method", ["subp", "dense"])
@pytest.mark.parametrize("make", [lambda: None, dropping], ids=["by name", "own, with dropout"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, method, make):
    config = replace(CONFIG, method=method)
    whole = trainer.train(DATA, config, model=make(), output=tmp_path / "whole")
    with pytest.raises(Interrupted):
        trainer.train(DATA, config, model=make(), output=tmp_path / "parts", progress=InterruptAfter(2))
    torch.manual_seed(99)
    parts = trainer.train(DATA, config, model=make(), output=tmp_path / "parts", resume=True)
    assert equal(whole.model.state_dict(), parts.model.state_dict())
    assert without_speed(whole.history) == without_speed(parts.history)
    saved = [checkpoint.load(tmp_path / name / trainer.CHECKPOINT) for name in ("whole", "parts")]
    assert equal(saved[0].model, saved[1].model) and equal(saved[0].optimizer, saved[1].optimizer)
    assert any(name.endswith("mask") for name in saved[0].model) == (method == "subp")


def test_a_run_learns_and_ends_sparse_folded_and_logged(tmp_path):
    config = replace(CONFIG, epochs=12, label_smoothing=0.0)
    result = trainer.train(DATA, config, output=tmp_path / "new" / "run")
    last = result.history[-1]
    assert last["val_accuracy"] > 0.9 and last["train_loss"] < result.history[0]["train_loss"]
    assert last["density"] == 0.25 and last["images_per_s"] > 0
    assert type(result.model.layer1[0].conv1) is nn.Conv2d and not result.model.training
    with open(tmp_path / "new" / "run" / trainer.LOG) as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["val_accuracy"]) == last["val_accuracy"]
    loaded, metadata = checkpoint.load_model(tmp_path / "new" / "run" / trainer.MODEL)
    assert equal(loaded.state_dict(), result.model.state_dict())
    assert metadata["epoch"] == 12 and metadata["classes"] == list("abcd")
    assert metadata["preprocessing"] == json.loads(json.dumps(DATA.preprocessing.as_dict()))
    assert metadata["sparsifier"]["sparsity"] == 0.75
    accuracy = loop.evaluate(loaded, loaders.batches(loaders.val_batches(DATA, loaders.Loading(7))))["val_accuracy"]
    assert accuracy == pytest.approx(last["val_accuracy"])


def test_dense_and_sparse_runs_of_one_seed_start_from_the_same_weights():
    def first_losses(method):
        return trainer.train(DATA, replace(CONFIG, method=method, epochs=4)).history[0]["train_loss"]

    assert first_losses("dense") == first_losses("subp")  # the first epoch still keeps every block


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    rates = [loop.learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.5)
    assert rates[55] == pytest.approx(0.25)
    assert rates[99] == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))


def test_a_run_of_nothing_but_warm_up_has_a_rate():
    history = trainer.train(DATA, replace(CONFIG, method="dense", epochs=2, warmup_epochs=2), model=dropping()).history
    assert [row["lr"] for row in history] == pytest.approx([0.05 / 8, 0.05 * 5 / 8])


def test_weight_decay_spares_biases_and_norms_and_every_parameter_is_in_one_group():
    model = dropping()
    make_sparsifier(model, CONFIG)
    decayed, spared = loop.parameter_groups(model, 1e-4)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)
    assert {id(p) for p in decayed["params"]} == {
        id(m) for m in (model.stem.weight, model.conv.parametrizations.weight.original, model.fc.weight)
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_one_step_of_training_equals_sgd_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    weight, bias = (p.detach().clone().requires_grad_() for p in model.parameters())
    x, y = torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    optimizer = torch.optim.SGD(loop.parameter_groups(model, 0.1), lr=1.0, momentum=0.9)
    stats = loop.train_epoch(model, [(x, y)], optimizer, lambda batch: 0.5)
    log_p = (x.flatten(1) @ weight.T + bias).log_softmax(1)
    loss = -sum(log_p[i, y[i]] for i in range(5)) / 5
    loss.backward()
    torch.testing.assert_close(model[1].weight, weight - 0.5 * (weight.grad + 0.1 * weight))
    torch.testing.assert_close(model[1].bias, bias - 0.5 * bias.grad)
    assert stats["train_loss"] == pytest.approx(loss.item())
    assert stats["train_accuracy"] == pytest.approx((log_p.argmax(1) == y).float().mean().item())


def test_a_run_that_diverges_says_so():
    with pytest.raises(UserError, match="training diverged"):
        trainer.train(DATA, replace(CONFIG, lr=1e30, method="dense"))


def test_an_earlier_run_is_not_overwritten(tmp_path):
    short = replace(CONFIG, epochs=1)
    trainer.train(DATA, short, model=dropping(), output=tmp_path)
    with pytest.raises(UserError, match="already holds a checkpoint: resume it"):
        trainer.train(DATA, short, model=dropping(), output=tmp_path)


def test_resuming_another_run_is_refused(tmp_path):
    short = replace(CONFIG, epochs=1, sparsity=0.75)
    trainer.train(DATA, short, model=dropping(), output=tmp_path)

    def resume(config=short, images=DATA):
        return trainer.train(images, config, model=dropping(), output=tmp_path, resume=True)

    with pytest.raises(UserError, match=r"the run to resume has --sparsity 0.75 \(not --sparsity 0.5\): resume"):
        resume(replace(short, sparsity=0.5))
    with pytest.raises(UserError, match="trained on other classes"):
        resume(images=replace(DATA, classes=list("abce")))
    with pytest.raises(UserError, match="there is no file"):
        trainer.train(DATA, short, output=tmp_path / "none", resume=True)
    other = dropping()
    other.conv = nn.Conv2d(8, 16, 5)
    with pytest.raises(
        UserError, match=r"the weights of the run to resume do not fit Dropping \(of another shape: conv"
    ):
        trainer.train(DATA, short, model=other, output=tmp_path, resume=True)
    with pytest.raises(UserError, match=r"the run to resume has --model Dropping \(not --model Sequential\)"):
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 12), nn.Flatten())
        trainer.train(DATA, short, model=model, output=tmp_path, resume=True)
    assert len(resume(replace(short, workers=1)).history) == 1


def test_resuming_writes_the_log_again(tmp_path):
    short = replace(CONFIG, epochs=1)
    trainer.train(DATA, short, model=dropping(), output=tmp_path)
    log = (tmp_path / trainer.LOG).read_text()
    (tmp_path / trainer.LOG).unlink()
    trainer.train(DATA, short, model=dropping(), output=tmp_path, resume=True)
    assert (tmp_path / trainer.LOG).read_text() == log


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"lr": math.inf}, "lr = inf"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing = 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **options)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="the device 'abacus' cannot be used"):
        trainer.train(DATA, replace(CONFIG, device="abacus"))


@pytest.mark.parametrize("name", subp.__all__)
def test_every_public_name_is_there(name):
    assert callable(getattr(subp, name))


def test_importing_the_package_imports_nothing_heavy():
    code = "import subp, sys; print(*(m for m in ('torch', 'torchvision', 'sklearn', 'tvm') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_training_never_imports_tvm():
    code = (
        "import subp.training.trainer, subp.pruning.summary, sys; print('tvm' in sys.modules or 'tvm_sched' in "
        "sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_an_output_that_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/run: Not a directory"):
        trainer.train(DATA, replace(CONFIG, epochs=1), model=dropping(), output=tmp_path / "file" / "run")


def test_settings_by_name_hold_hyperparameters_and_an_unknown_name_is_refused():
    config = Config.of({"lr": 0.2, "tau": 0.5})
    assert config == Config(lr=0.2, hyperparameters={"tau": 0.5})
    saved = json.loads(json.dumps(config.as_dict()))
    assert (saved["lr"], saved["tau"], saved["alpha"]) == (0.2, 0.5, 1.0)
    assert Config.of(saved).as_dict() == config.as_dict() | {"exclude": [], "include": []}
    with pytest.raises(UserError, match="there is no setting strength, taus"):
        Config.of({"taus": 0.5, "strength": 1.0})
