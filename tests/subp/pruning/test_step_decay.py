"""The pull on pruned weights, once a step, whatever kind of loop the optimizer is in."""

import copy

import pytest
import torch
from torch import nn

from subp import Sparsifier
from subp_contract.errors import UserError

DECAY, LR = 0.5, 0.1


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def start(**options):
    """(a model whose first two layers are pruned, their sparsifier, the trained weights)"""
    model = network()
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, epochs=1, decay=DECAY, **options)
    sparsifier.step(0)
    return model, sparsifier, [model[layer].parametrizations.weight.original for layer in (0, 2)]


def loss(model):
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 8, generator=draws), torch.randint(4, (16,), generator=draws)
    return nn.functional.cross_entropy(model(x), y)


def by_hand(steps=3, lr=LR):
    """The weights after steps of plain SGD on a network of plain tensors: loss's gradient + decay * pruned weight."""
    model, sparsifier, weights = start()
    masks = [mask.repeat_interleave(4, 0) for mask in sparsifier.masks.values()]
    plain = sparsifier.fold(copy.deepcopy(model))
    others = [plain[0].bias, plain[2].bias, plain[4].weight, plain[4].bias]
    trained = [weight.detach().clone() for weight in weights]
    for _ in range(steps):
        for layer, weight, mask in zip((0, 2), trained, masks, strict=True):
            plain[layer].weight.data = weight * mask
        plain.zero_grad()
        loss(plain).backward()
        for layer, weight, mask in zip((0, 2), trained, masks, strict=True):
            weight -= lr * (plain[layer].weight.grad + DECAY * ~mask * weight)
        for parameter in others:
            parameter.data -= lr * parameter.grad
    return trained


def trained(make, step, steps=3):
    """The weights after `step(model, optimizers)`, with decay in those optimizers that `make(model, weights)` gives."""
    model, sparsifier, weights = start()
    optimizers = make(model, weights)
    for optimizer in optimizers:
        sparsifier.decay_in(optimizer)
    for _ in range(steps):
        step(model, optimizers)
    return [weight.detach() for weight in weights]


def sgd(model, weights, **options):
    return [torch.optim.SGD(model.parameters(), lr=LR, **options)]


def plain_step(model, optimizers):
    model.zero_grad()
    loss(model).backward()
    for optimizer in optimizers:
        optimizer.step()


def by_closure(model, optimizers, **named):
    (optimizer,) = optimizers

    def closure():
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        return value

    optimizer.step(**{"closure": closure}) if named else optimizer.step(closure)


def named_closure(model, optimizers):
    by_closure(model, optimizers, named=True)


def zeroed_before_a_closure(model, optimizers):
    (optimizer,) = optimizers
    optimizer.zero_grad(set_to_none=False)

    def closure():
        loss(model).backward()

    optimizer.step(closure)


def scaled(model, optimizers):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.zero_grad()
    scaler.scale(loss(model)).backward()
    scaler.step(optimizers[0])


def scaled_and_unscaled_early(model, optimizers):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.zero_grad()
    scaler.scale(loss(model)).backward()
    scaler.unscale_(optimizers[0])
    scaler.step(optimizers[0])


def in_parts(model, optimizers):
    model.zero_grad()
    for _ in range(4):
        (loss(model) / 4).backward()
    optimizers[0].step()


def fused(model, weights):
    return sgd(model, weights, fused=True)


def twice(model, weights):
    return sgd(model, weights) * 2


def one_for_each_layer(model, weights):
    rest = [parameter for parameter in model.parameters() if parameter is not weights[1]]
    return [torch.optim.SGD(rest, lr=LR), torch.optim.SGD([weights[1]], lr=LR)]


@pytest.mark.parametrize(
    "make, step",
    [
        (sgd, plain_step),
        (sgd, by_closure),
        (sgd, named_closure),
        (sgd, zeroed_before_a_closure),
        (sgd, scaled),
        (sgd, scaled_and_unscaled_early),
        (sgd, in_parts),
        (fused, plain_step),
        (fused, scaled),
        (fused, scaled_and_unscaled_early),
        (twice, lambda model, optimizers: plain_step(model, optimizers[:1])),
        (one_for_each_layer, plain_step),
    ],
)
def test_each_step_pulls_pruned_weights_once_in_any_kind_of_loop(make, step):
    for got, expected in zip(trained(make, step), by_hand(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


class Wrapper(torch.optim.Optimizer):
    """As sharpness-aware minimisation wraps an optimizer: a closure between two steps, the second the inner one's."""

    def __init__(self, parameters, inner):
        super().__init__(parameters, {})
        self.inner = inner

    @torch.no_grad()
    def step(self, closure):
        torch.enable_grad()(closure)()
        self.inner.step()


@pytest.mark.parametrize("which", [slice(0, 1), slice(1, 2), slice(0, 2)])
def test_an_optimizer_inside_another_adds_no_second_pull(which):
    model, sparsifier, weights = start()
    inner = torch.optim.SGD(model.parameters(), lr=LR)
    outer = Wrapper(model.parameters(), inner)
    for optimizer in [outer, inner][which]:
        sparsifier.decay_in(optimizer)
    for _ in range(3):
        by_closure(model, [outer])
    for got, expected in zip(weights, by_hand(), strict=True):
        torch.testing.assert_close(got.detach(), expected, rtol=1e-4, atol=1e-6)


def test_lbfgs_sees_the_pull_in_every_evaluation_of_its_closure():
    def once(model, weights):
        return [torch.optim.LBFGS(model.parameters(), lr=LR, max_iter=1)]

    # Its first step is along the gradient g, lr * min(1, 1 / |g|_1) long.
    model, _, weights = start()
    loss(model).backward()  # with the backward pass's own pull
    gradients = [parameter.grad for parameter in model.parameters()]
    length = LR * min(1.0, 1.0 / sum(gradient.abs().sum().item() for gradient in gradients))
    expected = [weight.detach() - length * weight.grad for weight in weights]
    for got, wanted in zip(trained(once, by_closure, steps=1), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_weights_that_the_optimizer_does_not_hold_keep_the_pull_of_the_backward_pass():
    model, sparsifier, weights = start()
    sparsifier.decay_in(torch.optim.SGD([weights[0]], lr=LR))
    assert [model[layer].parametrizations.weight[0].decay for layer in (0, 2)] == [0.0, DECAY]


def test_an_optimizer_of_another_model_is_refused_and_so_is_a_folded_one():
    model, sparsifier, _ = start()
    with pytest.raises(UserError, match="holds none of the pruned weights: give it the parameters of this model"):
        sparsifier.decay_in(torch.optim.SGD(network().parameters(), lr=LR))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    sparsifier.decay_in(optimizer)
    sparsifier.fold()
    plain_step(model, [optimizer])  # as of a plain model
    with pytest.raises(UserError, match="folded"):
        sparsifier.decay_in(optimizer)


def test_hard_training_has_no_pull():
    model, sparsifier, weights = start(soft=False)
    before = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    sparsifier.decay_in(optimizer)
    plain_step(model, [optimizer])
    for weight, was, mask in zip(weights, before, sparsifier.masks.values(), strict=True):
        assert torch.equal(weight[~mask.repeat_interleave(4, 0)], was[~mask.repeat_interleave(4, 0)])
