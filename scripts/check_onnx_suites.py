#!/usr/bin/env python
"""Compiles the models of ONNX's backend suites, as the `onnx` package ships them, and compares the outputs with theirs.

    python scripts/check_onnx_suites.py                              all, a row each, to results/onnx_suites.csv
    python scripts/check_onnx_suites.py --only pytorch- --only light
    python scripts/check_onnx_suites.py --eager --output FILE        uncompiled: the nn.Module made of a file
    python scripts/check_onnx_suites.py --retry wrong --retry traceback

Suites: node (single operators; what networks have as constants is frozen, `scripts/onnx_suites.py` says how), simple,
pytorch-operator, pytorch-converted and light (known networks). A case that was tried is skipped, so a run that was cut
off goes on.

Columns: case (suite/test), suite, opset, dtype (of the first input), error (largest, over the largest value), verdict
(see `scripts/coverage_run.py`), said. Then the counts by suite, and why others are not right. Exits with 1 if one is
wrong, or a traceback.
"""

import sys
from functools import partial

import click
import coverage_run

COLUMNS = ("case", "suite", "opset", "dtype", "error", "verdict", "said")


@click.command()
@click.option(
    "--eager", is_flag=True, help="Compile nothing: compare what PyTorch computes of the network made of a file."
)
@coverage_run.options(output="results/onnx_suites.csv", seconds=60, cases_per_worker=300)
def command(eager, **chosen):
    """Compile the models of ONNX's backend suites and compare the outputs with theirs."""
    import onnx_suites

    judge = partial(judged, eager=eager)
    rows = coverage_run.run(onnx_suites.names(), judge, COLUMNS, coverage_run.Options(**chosen))
    print(coverage_run.summary(rows))
    print(by_suite(rows))
    sys.exit(coverage_run.exit_code(rows))


def judged(name: str, eager: bool) -> dict:
    """What is found of a case."""
    import onnx_suites
    import torch
    from coverage_verdict import compared, verdict

    import tvm_sched
    from tvm_sched.frontend.onnx import load
    from tvm_sched.frontend.onnx.tensors import tensor_from

    case = onnx_suites.case(name)
    row = {"suite": name.split("/")[0], "opset": case.opset, "dtype": case.dtype, "error": ""}
    shapes = {value.name: each.shape for value, each in zip(inputs_of(case), case.inputs or (), strict=False)}
    try:
        network = load(case.model, shapes=shapes)
        if case.inputs is None or case.outputs is None:
            return row | {"verdict": "refused", "said": "takes or gives no tensors"}
        inputs = [tensor_from(each) for each in case.inputs]
        wanted = [tensor_from(each) for each in case.outputs]
    except tvm_sched.UserError as error:
        return row | {"verdict": "refused", "said": " ".join(str(error).split())}
    if not eager:
        return row | verdict(network, inputs, wanted[0] if len(wanted) == 1 else tuple(wanted))
    with torch.no_grad():
        made = network(*inputs)
    return row | compared(made, wanted[0] if len(wanted) == 1 else tuple(wanted))


def inputs_of(case) -> list:
    """A model's inputs that are no initialisers."""
    known = {each.name for each in case.model.graph.initializer}
    return [each for each in case.model.graph.input if each.name not in known]


def by_suite(rows: list[dict]) -> str:
    """For each suite, how many cases are right, of all dtypes and of float32; of 'node' also of opset 11 to 21."""
    lines = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        mine = [row for row in rows if row["suite"] == suite]
        lines.append(f"{suite}: {right(mine)}; float32: {right([each for each in mine if each['dtype'] == 'float32'])}")
    asked = [
        row for row in rows if row["suite"] == "node" and row["dtype"] == "float32" and 11 <= int(row["opset"]) <= 21
    ]
    lines.append(f"node, float32, opset 11 to 21: {right(asked)}")
    return "\n".join(lines)


def right(rows: list[dict]) -> str:
    """'9 of 10 right (90 %)'."""
    count = sum(row["verdict"] == "right" for row in rows)
    return f"{count} of {len(rows)} right ({count / max(len(rows), 1):.0%})"


if __name__ == "__main__":
    command()
