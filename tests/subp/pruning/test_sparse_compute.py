"""Products without the pruned blocks, against PyTorch's of the masked weight."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from subp.data import loaders
from subp.pruning import masking, sparse_compute
from subp.pruning.sparsifier import Sparsifier
from subp.training import trainer
from subp.training.config import Config
from subp_contract.errors import UserError


def network(soft):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 64, 1, stride=2, bias=True),
        nn.BatchNorm2d(64),
        nn.Conv2d(64, 32, 1, bias=False),
        nn.Conv2d(32, 32, 3),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    sparsifier = Sparsifier(model, n=16, sparsity=0.75, epochs=2, soft=soft, decay=0.0)
    return model, sparsifier


def results(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("epoch", [0, 1])  # all blocks kept; a quarter
def test_outputs_and_gradients_equal_those_of_the_masked_convolution(soft, epoch):
    model, sparsifier = network(soft)
    sparsifier.step(epoch)
    x = torch.randn(3, 3, 7, 7)
    model.double()
    expected = results(copy.deepcopy(model), x.double())
    assert sparse_compute.attach(model) == 2
    products = []
    original, sparse_compute._Product = sparse_compute._Product, Counting(products)
    try:
        got = results(copy.deepcopy(model), x.double())
    finally:
        sparse_compute._Product = original
    assert len(products) == (2 if epoch else 0)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


class Counting:
    def __init__(self, calls):
        self.calls, self.product = calls, sparse_compute._Product

    def apply(self, *inputs):
        self.calls.append(1)
        return self.product.apply(*inputs)


def test_uneven_masks_compute_densely():
    model, sparsifier = network(soft=True)
    sparsifier.step(1)
    sparsifier.masks["3"][0] = False
    x = torch.randn(1, 64, 2, 2)
    expected = model[3](x)
    sparse_compute.attach(model)
    assert torch.equal(model[3](x), expected)


def test_a_copy_computes_with_weights_of_its_own_and_detaching_leaves_plain_layers():
    model, sparsifier = network(soft=True)
    sparsifier.step(1)
    sparse_compute.attach(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        masking.trained_weight(model[3]).zero_()
    x = torch.randn(1, 64, 2, 2)
    assert not model[3](x).any() and twin[3](x).any()
    sparse_compute.detach(twin)
    masking.fold(twin)
    assert "forward" not in vars(twin[3]) and type(twin[3]) is nn.Conv2d


DATA = loaders.from_tensors(*[(torch.rand(8, 3, 7, 7), torch.arange(8) % 5)] * 2, list("abcde"))
CONFIG = Config(n=16, epochs=3, batch_size=4, lr=0.01, ema=0.5)


def plain():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 1, stride=2), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 32, 3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 5))


@pytest.mark.parametrize("soft", [True, False])
def test_a_run_gives_the_weights_of_the_dense_computation(soft):
    config = replace(CONFIG, soft=soft)
    dense, sparse = (trainer.train(DATA, replace(config, sparse_compute=on), model=plain()) for on in (False, True))
    assert not any("forward" in vars(layer) for layer in sparse.model)
    for name, expected in dense.model.state_dict().items():
        torch.testing.assert_close(sparse.model.state_dict()[name], expected, rtol=1e-4, atol=1e-6)


def test_what_it_is_not_for_is_told():
    for options in ({"amp": "bf16"}, {"channels_last": True}, {"compile": True}):
        with pytest.raises(UserError, match="sparse_compute is for float32 on a CPU"):
            trainer.train(DATA, replace(CONFIG, sparse_compute=True, **options), model=plain())
    for options in ({"n": 8}, {"method": "dense"}):
        with pytest.raises(UserError, match="sparse_compute would change nothing"):
            trainer.train(DATA, replace(CONFIG, sparse_compute=True, **options), model=plain())
