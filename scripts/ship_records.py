#!/usr/bin/env python
"""Puts into a folder that is shipped what a tuning log found faster than the default tiles.

    python scripts/ship_records.py runs/tuning/x86-avx512 tuning_logs/x86-avx512

A kernel whose default tile nothing beat needs no line: compiling takes it anyway. The layers' forms are all kept.
"""

import json
from pathlib import Path

import click


@click.command()
@click.argument("records", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def command(records: Path, folder: Path) -> None:
    """Put the fastest records of the tuning log RECORDS into FOLDER."""
    from tvm_sched.records import fastest

    defaults = first_traces(records)
    best = fastest.best_of(records)
    beaten = {key: line for key, line in best.items() if json.dumps(line["trace"]) != defaults[line["workload"]]}
    count = fastest.write(folder, lambda kept: kept | beaten, [records])
    click.echo(f"{len(beaten)} of {len(best)} kernels beat their default tiles; {folder} has {count}")


def first_traces(records: Path) -> dict[str, str]:
    """By a kernel's hash, the schedule that was measured first, which is the default's, as JSON."""
    from tvm_sched.records.database import RECORDS, WORKLOADS, is_record, is_workload
    from tvm_sched.records.json_lines import JsonLines

    workloads = JsonLines(records / WORKLOADS, is_workload).read(repair=False)
    lines = JsonLines(records / RECORDS, lambda line: is_record(line, len(workloads))).read(repair=False)
    found: dict[str, str] = {}
    for number, (trace, *_) in lines:
        found.setdefault(workloads[number][0], json.dumps(trace))
    return found


if __name__ == "__main__":
    command()
