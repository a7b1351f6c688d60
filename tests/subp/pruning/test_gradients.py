"""Methods that see gradients: what is averaged, when, and where it is kept."""

import copy
from dataclasses import dataclass, replace

import forked_ranks
import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp.data import loaders
from subp.pruning import masking
from subp.pruning.block_masks import to_blocks
from subp.pruning.methods import METHODS, Hyperparameters, Method, hyperparameter, register
from subp.pruning.methods.ranking import keep_best
from subp.training import checkpoint, trainer
from subp.training.config import Config

SEEN = []  # what the method was told, a gradient a step


@dataclass(frozen=True)
class Strength(Hyperparameters):
    strength: float = hyperparameter(1.0, "Of the gradient.", lambda strength: strength >= 0, "it is at least 0")


def by_gradient(weight, at):
    """Blocks of least norm, of weight and gradient together, are pruned."""
    SEEN.append(at.gradient.clone())
    return keep_best(to_blocks(weight.abs() + at.options.strength * at.gradient.abs(), at.n).sum(-1), at.rate)


METHOD = Method(
    name="by-gradient",
    help="by gradient",
    prunes="1xN blocks",
    masks="by gradient",
    choose=by_gradient,
    options=Strength,
    one_shot=True,
    needs_gradients=True,
)


@pytest.fixture(autouse=True)
def registered():
    SEEN.clear()
    yield register(METHOD)
    del METHODS[METHOD.name]


def start(soft=True, **options):
    """(a model of three layers, whose second is pruned, its sparsifier, after the first step)"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 2))
    options = {"n": 4, "sparsity": 0.5, "method": "by-gradient", "epochs": 9, "soft": soft, **options}
    sparsifier = Sparsifier(model, **options)
    sparsifier.step(0)
    return model, sparsifier


def inputs(seed):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def backward(model, seed):
    model(inputs(seed)).square().sum().backward()


def expected(model, seed):
    """The gradient by the second layer's masked weight, computed as of a plain layer."""
    plain = masking.fold(copy.deepcopy(model))
    plain.zero_grad()
    backward(plain, seed)
    return plain[1].weight.grad


@pytest.mark.parametrize("soft", [True, False])
def test_a_method_gets_the_mean_gradient_by_the_masked_weight_since_the_step_before(soft):
    model, sparsifier = start(soft)
    assert not SEEN[0].any()  # before the first backward pass
    for seeds in ((1, 2), (3,)):
        of_passes = [expected(model, seed) for seed in seeds]
        for seed in seeds:
            backward(model, seed)
        sparsifier.step(sparsifier.epoch + 1)
        torch.testing.assert_close(SEEN[-1], torch.stack(of_passes).mean(0))
        assert SEEN[-1][~model[1].parametrizations.weight[0].mask.repeat_interleave(4, 0)].any()


def test_hard_training_gives_pruned_weights_no_gradient_although_the_method_sees_theirs():
    model, sparsifier = start(soft=False)
    backward(model, 1)
    pruned = ~sparsifier.masks["1"].repeat_interleave(4, 0)
    assert not masking.trained_weight(model[1]).grad[pruned].any()


def test_gradients_that_overflow_are_left_out():
    model, sparsifier = start()
    wanted = expected(model, 1)
    (float("inf") * model(inputs(2)).square().sum()).backward()
    backward(model, 1)
    sparsifier.step(1)
    torch.testing.assert_close(SEEN[-1], wanted)


def test_a_copy_of_a_model_averages_its_own_gradients():
    model, sparsifier = start()
    copied, twin = copy.deepcopy((model, sparsifier))
    wanted = expected(model, 1)
    backward(copied, 1)
    twin.step(1)
    torch.testing.assert_close(SEEN[-1], wanted)
    sparsifier.step(1)
    assert not SEEN[-1].any()


def test_a_compiled_model_averages_the_same():
    model, sparsifier = start()
    wanted = expected(model, 1)
    backward(torch.compile(model, backend="aot_eager"), 1)
    sparsifier.step(1)
    torch.testing.assert_close(SEEN[-1], wanted)


def test_the_mean_is_part_of_the_models_state_and_goes_when_it_is_folded():
    model, sparsifier = start()
    backward(model, 1)
    state = copy.deepcopy(model.state_dict())
    again, other = start()
    again.load_state_dict(state)
    sparsifier.step(1), other.step(1)
    assert SEEN[-1].any() and torch.equal(SEEN[-1], SEEN[-3])
    folded = masking.fold_state_dict(state)
    assert (
        folded.keys()
        == sparsifier.fold().state_dict().keys()
        == {"0.weight", "0.bias", "1.weight", "2.weight", "2.bias"}
    )


def test_methods_that_do_not_ask_have_no_gradients_kept():
    model, _ = start(method="subp")
    assert not any("gradient" in name for name in model.state_dict())


def _rank(rank, folder):
    METHODS[METHOD.name] = METHOD  # unless this is a fork, which knows it
    forked_ranks.join(rank, folder)
    model, sparsifier = start()
    backward(nn.parallel.DistributedDataParallel(model, broadcast_buffers=False), rank)
    sparsifier.step(1)
    torch.save(SEEN[-1], f"{folder}/{rank}")
    torch.distributed.barrier()  # a rank that leaves early may abort the other one's last exchange
    torch.distributed.destroy_process_group()


def test_data_parallel_ranks_see_the_mean_of_all(tmp_path):
    forked_ranks.run(_rank, tmp_path)
    model, _ = start()
    wanted = (expected(model, 0) + expected(model, 1)) / 2
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / str(rank)), wanted)


class Killed(Exception):
    """The run ends early."""


def test_a_resumed_run_goes_on_with_the_gradients_that_it_had(tmp_path, monkeypatch):
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3
    data = loaders.from_tensors(images, images, list("abc"))
    config = Config(
        method="by-gradient", hyperparameters={"strength": 5.0}, n=4, sparsity=0.5, epochs=3, batch_size=8, seed=1
    )

    def train(**options):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        )
        return trainer.train(data, config, model=model, **options).model.state_dict()

    whole = train()
    step = Sparsifier.step

    def until_the_last(self, epoch):
        if epoch == 2:
            raise Killed
        step(self, epoch)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Sparsifier, "step", until_the_last)
        train(output=tmp_path)
    saved = checkpoint.load(tmp_path / trainer.CHECKPOINT)
    assert saved.metadata["config"]["strength"] == saved.metadata["sparsifier"]["strength"] == 5.0
    assert saved.model["1.parametrizations.weight.0.gradient"].any()
    resumed = train(output=tmp_path, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ValueError, match=r"the run to resume has --strength 5.0 \(not --strength 1.0\)"):
        config = replace(config, hyperparameters={})
        train(output=tmp_path, resume=True)
