#!/usr/bin/env python
"""Compiles the smallest network of every family of timm with random weights and compares each with PyTorch.

    python scripts/check_timm.py                         all families, a row each, to results/timm.csv
    python scripts/check_timm.py --only ghostnet         these
    python scripts/check_timm.py --retry refused

A family is a module of timm's models, its smallest network the one of fewest parameters, synthetic ones for timm's own
tests left out. Counting them takes minutes and is kept in the temporary folder. The image has 224 pixels, or as many as
the network is fixed to. Each network is tried in a process of its own, for one thread; one that has a row is skipped.
Needs the package's extra 'timm'.

Columns: family, network, parameters, and those of `scripts/coverage_networks.py`. Exits with 1 if one is wrong, ended
in a traceback, or took more than the limits of time and memory.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
import coverage_run
from coverage_networks import COLUMNS, judged

from subp import models

SIZE = 224


@click.command()
@click.option("--n", default=16, show_default=True, help="Block size.")
@click.option("--sparsity", default=0.75, show_default=True, help="Fraction of blocks that are zero; 0: dense.")
@coverage_run.options(output="results/timm.csv", seconds=180, cases_per_worker=1)
def command(n, sparsity, **chosen):
    """Compile the smallest network of every family of timm and compare each with PyTorch."""
    families = smallest()
    judge = partial(judged_family, networks={name: each["network"] for name, each in families.items()})
    judge = partial(judge, n=n, sparsity=sparsity)
    options = coverage_run.Options(**chosen)
    rows = coverage_run.run(families, judge, ("family", "network", "parameters", *COLUMNS), options)
    print(coverage_run.summary(rows))
    sys.exit(coverage_run.exit_code(rows))


def judged_family(family: str, networks: dict[str, str], n: int, sparsity: float) -> dict:
    """The row of a family's network."""
    timm = imported()
    name = networks[family]
    settings = timm.get_pretrained_cfg(name)
    own = settings.input_size[-1]
    sizes = [own] if settings.fixed_input_size else [SIZE, own]
    return judged(lambda: models.create(f"timm/{name}", 1000), sizes, n, sparsity)


def smallest() -> dict[str, dict]:
    """'network' and 'parameters' of each family's smallest network, smallest first."""
    timm = imported()
    kept = Path(tempfile.gettempdir()) / f"timm_{timm.__version__}_smallest.json"
    if not kept.exists():
        found = {family: min(sized(family), key=lambda each: each["parameters"]) for family in timm.list_modules()}
        kept.write_text(json.dumps(dict(sorted(found.items(), key=lambda item: item[1]["parameters"]))))
    return json.loads(kept.read_text())


def sized(family: str) -> list[dict]:
    """'network' and 'parameters' of all networks of a family."""
    import torch

    timm = imported()
    rows = []
    for name in timm.list_models(module=family):
        if not name.startswith("test_"):
            with torch.device("meta"):
                network = timm.create_model(name, pretrained=False)
            rows.append({"network": name, "parameters": sum(weight.numel() for weight in network.parameters())})
    return rows


def imported():
    """timm, which imports torchvision."""
    from subp.common.vision import import_torchvision

    import_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        sys.exit(f"this needs the package {error.name}: pip install -e '.[timm]'")
    return timm


if __name__ == "__main__":
    command()
