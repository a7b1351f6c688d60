"""What becomes of an operator's samples in the table."""

import pytest
from check_op_db import by_kind, summed_up


def samples(*verdicts):
    """'refused random' is a refused sample that draws random numbers."""
    rows = []
    for verdict, _, kind in (each.partition(" ") for each in verdicts):
        rows.append({"verdict": verdict, "kind": kind, "said": verdict, "error": "1e-7" if verdict == "right" else ""})
    return rows


@pytest.mark.parametrize(
    ("verdicts", "verdict", "said"),
    [
        (["right", "right"], "right", ""),
        (["right", "refused", "wrong"], "wrong", "#2: wrong"),
        (["refused", "right"], "partly", "#0: refused"),
        (["refused", "unexportable"], "refused", "#0: refused"),
        (["right", "refused random", "refused empty"], "right", ""),
        (["refused random", "refused random"], "refused", "#0: refused"),
        (["right", "traceback empty"], "traceback", "#1: traceback"),
        (["unexportable"], "unexportable", "#0: unexportable"),
        ([], "unexportable", ""),
    ],
)
def test_the_worst_sample_speaks_for_an_operator(verdicts, verdict, said):
    row = summed_up(samples(*verdicts))
    assert (row["verdict"], row["said"], row["samples"]) == (verdict, said, len(verdicts))


def test_an_operator_is_right_if_it_is_in_all_dtypes_that_export():
    verdicts = {
        "add": ["right", "right"],
        "pow": ["right", "refused"],
        "lu": ["refused"],
        "abs": ["right", "unexportable"],
    }
    rows = [
        {"operator": name, "kind": "tensor", "verdict": verdict} for name, each in verdicts.items() for verdict in each
    ]
    assert by_kind(rows) == "tensor: 2 operators right, 1 more in part, of 4"
