#!/usr/bin/env python
"""The main loop of every kernel for an Arm core, and the share of its cycles that multiply-adds alone would take, by
llvm-mca: static analysis.

    python scripts/main_loops.py [TARGET]

Writes results/main_loops_TARGET.csv. `stack`: loads from the stack and stores there, in the loop.
"""

import csv
import os
from pathlib import Path

import click

from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.estimation import machine_model, main_loops
from tvm_sched.quiet import quiet

RESULTS = Path(__file__).resolve().parent.parent / "results"
FIELDS = (
    "kernel",
    "n",
    "sparse",
    "size",
    "stride",
    "tile",
    "instructions",
    "fmas",
    "by_element",
    "stack",
    "cycles",
    "fma_bound",
)


@click.command()
@click.argument("target", default="cortex-a76")
def command(target: str):
    """Look at the main loops for TARGET."""
    try:
        machine = targets.get(target)
        machine_model.require(machine)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    rows = []
    for case in main_loops.CASES:
        with quiet():
            tile, loop = main_loops.of(case, machine)
        told = (
            len(loop.body),
            loop.fmas,
            loop.by_element,
            loop.stack,
            f"{loop.cycles(machine):.1f}",
            f"{loop.fma_bound(machine):.2f}",
        )
        example = case.example
        rows.append((case.kernel.name, example.n, example.sparse, example.size, example.stride, tile, *told))
        click.echo(f"{case}: {tile}: {told[-1]} of the FMA bound")
    file = RESULTS / f"main_loops_{machine.name}.csv"
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(FIELDS)
        writer.writerows(rows)
    os.replace(partial, file)


if __name__ == "__main__":
    command()
