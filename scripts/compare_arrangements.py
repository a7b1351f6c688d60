#!/usr/bin/env python
"""How much of its pruned layers' L1 norm a uniform 1xN mask keeps, by the order of the filters.

    python scripts/compare_arrangements.py resnet18                       random weights, 1x16 at 75 %
    python scripts/compare_arrangements.py runs/dense --n 8 --size 32     a checkpoint of `subp train`

A line for filters as they are and one for each `arrange_by`: the share that is kept, and the seconds that finding the
order took.
"""

import copy
import time

import click


@click.command()
@click.argument("model")
@click.option("--n", default=16, show_default=True)
@click.option("--sparsity", default=0.75, show_default=True)
@click.option("--size", type=int, help="Of the images.  [default: the checkpoint's, or 224]")
def command(model, n, sparsity, size):
    """Compare the orders for MODEL, as `subp advise` takes it."""
    import torch

    from subp.deployment.advice import network_of
    from subp.pruning.settings import ARRANGEMENTS

    torch.manual_seed(0)
    network, x = network_of(model, size, None)
    for arrange_by in (None, *ARRANGEMENTS):
        started = time.perf_counter()
        share = kept_share(copy.deepcopy(network), tuple(x.shape[1:]), n, sparsity, arrange_by)
        click.echo(f"{arrange_by or 'as it is':12} keeps {share:.2%}, {time.perf_counter() - started:.1f} s")


def kept_share(network, shape, n, sparsity, arrange_by) -> float:
    """Of the L1 norm of all layers that are pruned, at once and by that norm."""
    from subp import Sparsifier
    from subp.pruning.masking import trained_weight, weight_of

    sparsifier = Sparsifier(
        network,
        n=n,
        sparsity=sparsity,
        method="one-by-n-uniform",
        epochs=1,
        rearrange=arrange_by is not None,
        arrange_by=arrange_by or "norm",
        input_shape=shape,
    )
    sparsifier.step(0)
    places = sparsifier.places.values()
    kept, whole = (
        sum(of(*place).detach().abs().sum().item() for place in places) for of in (weight_of, trained_weight)
    )
    return kept / whole


if __name__ == "__main__":
    command()
