#!/usr/bin/env python
"""Compiles torchvision's networks with random weights and compares each with PyTorch.

    python scripts/check_torchvision.py                     all of them, a row each, to results/torchvision.csv
    python scripts/check_torchvision.py --only resnet18     those with this in their name
    python scripts/check_torchvision.py --retry refused

These are all classifiers and segmentation networks, and the backbones of all detectors with their feature pyramids
(what comes behind them, as the suppression of overlapping boxes, has sizes that depend on values). Each network is
tried in a process of its own, small ones first, for one thread; one that has a row is skipped.

Columns: network, task, and those of `scripts/coverage_networks.py`. Exits with 1 if one is wrong, ended in a traceback,
or took more than the limits of time and memory.
"""

import sys
from functools import partial

import click
import coverage_run
from coverage_networks import COLUMNS, judged
from torch import nn

from subp.common.vision import import_torchvision

PIXELS = {"inception_v3": 299, "ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}  # others take 224


@click.command()
@click.option("--n", default=16, show_default=True, help="Block size.")
@click.option("--sparsity", default=0.75, show_default=True, help="Fraction of blocks that are zero; 0: dense.")
@coverage_run.options(output="results/torchvision.csv", seconds=600, gigabytes=16, cases_per_worker=1)
def command(n, sparsity, **chosen):
    """Compile torchvision's networks with random weights and compare each with PyTorch."""
    judge = partial(judged_network, n=n, sparsity=sparsity)
    rows = coverage_run.run(networks(), judge, ("network", "task", *COLUMNS), coverage_run.Options(**chosen))
    print(coverage_run.summary(rows))
    sys.exit(coverage_run.exit_code(rows))


def judged_network(name: str, n: int, sparsity: float) -> dict:
    """The row of a network."""
    return judged(lambda: made(name, networks()[name]["task"]), [PIXELS.get(name, 224)], n, sparsity)


def networks() -> dict[str, dict]:
    """'task' of each network, smallest first."""
    models = import_torchvision().models
    tasks = {"classification": models, "segmentation": models.segmentation, "detection": models.detection}
    found = {name: {"task": task} for task, module in tasks.items() for name in models.list_models(module=module)}

    def parameters(name: str) -> int:
        return next(iter(models.get_model_weights(name))).meta["num_params"]

    return {name: found[name] for name in sorted(found, key=parameters)}


def made(name: str, task: str) -> nn.Module:
    """A network, or the backbone of a detector, with random weights."""
    models = import_torchvision().models
    if task == "classification":
        return models.get_model(name, weights=None)
    network = models.get_model(name, weights=None, weights_backbone=None)
    return network.backbone if task == "detection" else network


if __name__ == "__main__":
    command()
