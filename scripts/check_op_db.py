#!/usr/bin/env python
"""Compiles PyTorch's operators on the samples of its own tests and compares each with PyTorch.

    python scripts/check_op_db.py                                  all, a row each, to results/op_db.csv
    python scripts/check_op_db.py --only 'pow int64' --show        this one, sample by sample
    python scripts/check_op_db.py --retry wrong --retry traceback

A case is an operator and a dtype of its samples; `scripts/op_db.py` says how a sample becomes a network. One that was
tried is skipped, so a run that was cut off goes on; `--samples` and `--seed` choose other samples (into another
`--output`). Needs the package's extra 'test'.

Columns: case, operator, dtype, kind (`scripts/op_db.py` says which there are), samples
(tried), right, refused, unexportable (torch.export itself does not take them), error (largest, over the largest value),
verdict (of the worst sample: see `scripts/coverage_run.py`; 'partly': some right, others refused; 'unexportable': all
are), said. A sample that draws random numbers, has no elements, or in which sizes depend on values may be refused:
that is no reason not to call the others right. Operators that give memory as it is are left out.

Then what was said of those that are not right, and counts by kind. Exits with 1 if one is wrong, or a traceback.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from functools import partial

import click
import coverage_run

KINDS = ("functional", "tensor", "other")  # in this order
COUNTED = ("right", "refused", "unexportable")
COLUMNS = ("case", "operator", "dtype", "kind", "samples", *COUNTED, "error", "verdict", "said")


@click.command()
@click.option("--samples", default=8, show_default=True, help="Samples of an operator and dtype, at most.")
@click.option("--seed", default=0, show_default=True, help="Of the samples' numbers.")
@click.option("--show", is_flag=True, help="Print every sample's verdict, in this process, and write no table.")
@coverage_run.options(output="results/op_db.csv", seconds=60)
def command(samples, seed, show, **chosen):
    """Compile PyTorch's operators on the samples of its own tests and compare each with PyTorch."""
    import op_db

    try:
        operators = op_db.operators()
    except ModuleNotFoundError as error:
        sys.exit(f"PyTorch's operator database needs the package {error.name}: pip install -e '.[test]'")
    cases = {
        f"{name} {dtype}": {"operator": name, "dtype": dtype, "kind": kind}
        for kind in KINDS
        for name, operator in operators.items()
        for dtype in operator.dtypes
        if operator.kind == kind
    }
    options = coverage_run.Options(**chosen)
    if show:
        for case in coverage_run.asked(cases, options):
            for index, row in enumerate(judged_samples(case, samples, seed)):
                print(f"{case} #{index} {row['verdict']}: {row['said']}")
        return
    rows = coverage_run.run(cases, partial(judged, samples=samples, seed=seed), COLUMNS, options)
    print(coverage_run.summary(rows))
    print(by_kind(rows))
    sys.exit(coverage_run.exit_code(rows))


def judged(case: str, samples: int, seed: int) -> dict:
    """What the samples of a case tell."""
    made = list(judged_samples(case, samples, seed))
    kind, count = Counter(each["kind"] for each in made).most_common(1)[0] if made else ("", 0)
    return ({"kind": kind} if kind and 2 * count > len(made) else {}) | summed_up(made)


def judged_samples(case: str, samples: int, seed: int) -> Iterable[dict]:
    """'verdict', 'said', 'error' and 'kind' of each sample of a case."""
    import op_db

    name, dtype = case.split()
    for module in op_db.operators()[name].samples(dtype, samples, seed):
        yield judged_sample(module)


def judged_sample(module) -> dict:
    """'verdict', 'said', 'error' and 'kind' ('', 'random', 'value-dependent', 'empty') of one sample."""
    import op_db
    import torch
    from coverage_verdict import verdict

    row = {"kind": "empty" if module.is_empty else "", "error": ""}
    try:
        with torch.no_grad():
            wanted = module(*module.inputs())
            if op_db.is_random(module):
                row["kind"] = "random"
        program = op_db.exported(module)
    except Exception as error:  # of any kind: PyTorch's own
        return row | {"verdict": "unexportable", "said": coverage_run.one_line(error)}
    if op_db.has_sizes_by_value(program) and not row["kind"]:
        row["kind"] = "value-dependent"
    row |= verdict(program, module.inputs(), wanted)
    if row["verdict"] == "refused" and op_db.may_be_random(program):
        row["kind"] = "random"
    if row["kind"] == "random" and row["verdict"] in ("right", "wrong"):
        return row | {"verdict": "wrong", "said": "it draws random numbers, and was compiled"}
    return row


def summed_up(samples: list[dict]) -> dict:
    """The columns of a case that follow from its samples: the worst verdict, and what was said of the first such."""
    counts = Counter(each["verdict"] for each in samples)
    expected = [each for each in samples if each["kind"] and each["verdict"] == "refused"]  # these may be
    judged = [each for each in samples if each not in expected] or expected
    order = [*sorted(coverage_run.MISSED), "refused", "right", "unexportable"]
    worst = min((each["verdict"] for each in judged), key=order.index, default="unexportable")
    first = next((index for index, each in enumerate(samples) if each in judged and each["verdict"] == worst), None)
    return {
        "samples": len(samples),
        **{verdict: counts[verdict] for verdict in COUNTED},
        "error": max((each["error"] for each in samples if each["error"]), key=float, default=""),
        "verdict": "partly" if worst == "refused" and counts["right"] else worst,
        "said": "" if first is None or worst == "right" else f"#{first}: {samples[first]['said']}",
    }


def by_kind(rows: list[dict]) -> str:
    """For each kind: how many operators are right in all dtypes that torch.export takes, of how many."""
    lines = []
    for kind in sorted({row["kind"] for row in rows}):
        verdicts: dict[str, set[str]] = {}
        for row in rows:
            if row["kind"] == kind and row["verdict"] != "unexportable":
                verdicts.setdefault(row["operator"], set()).add(row["verdict"])
        right = sum(each == {"right"} for each in verdicts.values())
        some = sum(bool(each & {"right", "partly"}) for each in verdicts.values())
        lines.append(f"{kind}: {right} operators right, {some - right} more in part, of {len(verdicts)}")
    return "\n".join(lines)


if __name__ == "__main__":
    command()
