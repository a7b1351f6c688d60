"""A method of one's own, from outside the package: what is kept by norm, and grown by gradient at a constant rate."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn import Linear, Sequential

from subp import Sparsifier, UserError
from subp.pruning.block_masks import to_blocks
from subp.pruning.methods import METHODS, Hyperparameters, Method, hyperparameter, register
from subp.pruning.schedules import count, pruned_count


@dataclass(frozen=True)
class Swapping(Hyperparameters):
    exchanged: float = hyperparameter(0.3, "Share of blocks that mine swaps.", lambda x: 0 <= x < 1, "it is in [0, 1)")


def choose(weight, at):
    """Each group keeps its blocks of largest norm but for a share, and those of largest gradient in place of these."""
    norms, gradients = (to_blocks(each, at.n).abs().sum(-1) for each in (weight, at.gradient))
    kept = norms.shape[1] - pruned_count(at.rate, norms.shape[1])
    exchanged = min(count(at.options.exchanged, kept), norms.shape[1] - kept)
    mask = torch.zeros_like(norms, dtype=torch.bool).scatter_(1, norms.topk(kept - exchanged).indices, True)
    return mask.scatter_(1, gradients.masked_fill(mask, -1).topk(exchanged).indices, True)


MINE = Method("mine", "Mine by blocks", "1xN blocks", "kept by norm, grown by gradient", choose, options=Swapping,
              scorings=("masked",), soft=False, one_shot=True, needs_gradients=True)  # fmt: skip


def test_it_trains_uniform_masks_that_move_by_gradients(request):
    register(MINE)
    request.addfinalizer(lambda: METHODS.pop(MINE.name))  # for this test alone
    torch.manual_seed(0)
    model = Sequential(Linear(8, 16), Linear(16, 16), Linear(16, 4))
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, method="mine", exchanged=0.25, epochs=5)
    optimizer, masks = torch.optim.SGD(model.parameters()), []
    for epoch in range(5):
        sparsifier.step(epoch)
        masks.append(sparsifier.masks["1"].clone())
        optimizer.zero_grad()
        model(torch.randn(32, 8)).square().sum().backward()
        optimizer.step()
    assert all((mask.sum(1) == 8).all() for mask in masks) and not torch.equal(masks[1], masks[4])
    with pytest.raises(UserError, match=r"exchanged = 1.5: it is in \[0, 1\)"):
        Sparsifier(sparsifier.fold(), n=4, method="mine", exchanged=1.5, epochs=1)


def test_the_command_line_has_it_and_its_hyperparameter():
    code = "import test_new_method as own; own.register(own.MINE); from subp import cli; cli.main(['train', '--help'])"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(__file__).parent)
    words = " ".join(shown.split())  # however the lines are broken
    assert "; mine: Mine by blocks" in words and "--exchanged FLOAT Share of blocks that mine swaps." in words
