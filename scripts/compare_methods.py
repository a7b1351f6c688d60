#!/usr/bin/env python
"""Trains every cell of a grid of methods and writes a row for each to a CSV file.

    python scripts/compare_methods.py results/methods.json --data DIR               all cells, one after the other
    python scripts/compare_methods.py results/methods.json --data DIR --part 1 2    half of them; 2 2: the other half
    python scripts/compare_methods.py results/methods.json --data DIR --cluster slurm    each set of trials as a job

DIR (or the environment's SUBP_DATA) holds the grid's data sets, such as cifar10-jpeg. Cells that have a row are
skipped: a run that was cut off goes on where it was. Where the grid has seeds, the best of each set of trials follows
it. With `--cluster` the jobs are submitit's (`pip install 'subp-cpu[cluster]'`); they share the folders that are given
here, so those lie where all machines see them. `subp.training.experiments` explains grids and columns;
scripts/plot_results.py makes a page of the rows.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from subp.training import experiments
from subp_contract.errors import UserError

SHORT = {"epochs": 2, "train_images": 500}


@click.command()
@click.argument("grid", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data",
    envvar="SUBP_DATA",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the data sets.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("results/methods.csv"), show_default=True
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/methods"),
    show_default=True,
    help="Folder for trained networks, and dense ones that cells begin with.",
)
@click.option(
    "--part", nargs=2, type=click.IntRange(1), default=(1, 1), help="K M: the K-th of every M sets of trials."
)
@click.option("--threads", default=1, show_default=True, help="CPU threads.")
@click.option("--list", "listing", is_flag=True, help="Show the cells and what they cost; train nothing.")
@click.option(
    "--trial",
    is_flag=True,
    help=f"Every cell for {SHORT['epochs']} epochs on {SHORT['train_images']} images, to see that it runs.",
)
@click.option("--cluster", type=click.Choice(["slurm", "local"]), help="Train there; local: processes of this machine.")
@click.option("--partition", help="Of the cluster.")
@click.option("--hours", default=24.0, show_default=True, help="That a job may take.")
@click.option("--jobs", default=100, show_default=True, help="That run at a time.")
def command(grid, data, output, work, part, threads, listing, trial, cluster, partition, hours, jobs):
    """Train every cell of GRID, a row each."""
    plan = experiments.read_plan(grid)
    if trial:
        plan = replace(plan, cells=[shortened(cell) for cell in plan.cells])
    if listing:
        cells = planned(plan, part, output)
        for number, cell in enumerate(cells, 1):
            click.echo(f"{number:3} {described(cell)}")
        click.echo(f"{len(cells)} cells, {sum(cell.images for cell in cells):,} images")
        return
    work.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = {"data": data.resolve(), "output": output.resolve(), "work": work.resolve()}
    if cluster is None:
        train_part(plan, part, **paths, threads=threads)
        return
    submitted = submit(plan, paths, threads, work / "jobs", cluster, partition, hours, jobs)
    click.echo(f"{len(submitted)} jobs, {', '.join(job.job_id for job in submitted)}; their logs: {work / 'jobs'}")
    for job in submitted:
        job.result()  # waits; raises what the job did


def submit(plan, paths, threads, logs, cluster, partition, hours, jobs):
    """A job of submitit for each set of trials, the one that judges the best among them; they are returned."""
    try:
        import submitit
    except ImportError as error:
        raise click.ClickException("--cluster needs submitit: pip install 'subp-cpu[cluster]'") from error
    executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
    executor.update_parameters(timeout_min=round(60 * hours), cpus_per_task=threads, name="compare_methods")
    if cluster == "slurm":
        executor.update_parameters(slurm_array_parallelism=jobs)
        if partition:
            executor.update_parameters(slurm_partition=partition)
    count = len(plan.sets([]))
    parts = [(number + 1, count) for number in range(count)]
    return executor.map_array(partial(train_part, plan, **paths, threads=threads), parts)


def planned(plan, part, output):
    """The cells of a part (K, M), as far as the rows there are tell them: finals join when their trials are done."""
    first, step = part
    return [cell for cells in plan.sets(experiments.read_rows(output))[first - 1 :: step] for cell in cells]


def train_part(plan, part, data, output, work, threads):
    """Trains the cells of a part that have no row yet."""
    import torch

    torch.set_num_threads(threads)

    def to_do():
        done = {row["cell"] for row in experiments.read_rows(output)}
        return [cell for cell in planned(plan, part, output) if cell.key not in done]

    while left := to_do():
        cell, started = left[0], time.perf_counter()
        try:
            row = experiments.run(cell, data, work, click.echo)
        except UserError as error:
            raise click.ClickException(f"{described(cell)}: {error}") from error
        experiments.add_row(output, row)
        rate = cell.images / (time.perf_counter() - started)
        minutes = sum(other.images for other in left[1:]) / rate / 60
        click.echo(
            f"{described(cell)}: accuracy {row['accuracy']:.2%}, density {row['density']:.1%}, "
            f"{row['images_per_s']} images/s, {row['seconds']} s; "
            f"{len(left) - 1} known to go, about {minutes:.0f} minutes"
        )


def shortened(cell):
    """The cell, for a trial."""
    return replace(cell, **SHORT, pretrain_epochs=1 if cell.pretrain_epochs else 0)


def described(cell) -> str:
    """One line."""
    variant = f" ({cell.variant})" if cell.variant else ""
    return (
        f"{cell.network} {cell.method}{variant} n {cell.n} sparsity {cell.sparsity} seed {cell.seed}, {cell.epochs} "
        f"epochs, rate {cell.lr}, by {cell.judged_on} images"
    )


if __name__ == "__main__":
    command()
