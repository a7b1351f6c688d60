"""What counts as PyTorch's numbers."""

import pytest
import torch
from coverage_verdict import compared

NAN, INF = float("nan"), float("inf")
ROW = torch.tensor([1.0, -200.0, 3.0])


@pytest.mark.parametrize(
    ("made", "wanted", "said"),
    [
        (ROW + 0.1, ROW, ""),  # 5e-4 of the largest
        (ROW + 0.3, ROW, "by 0.0015 of the largest value"),
        (ROW[:2], ROW, "shape [2] instead of [3]"),
        (ROW.double(), ROW, "torch.float64 instead of torch.float32"),
        (torch.tensor([NAN, 2.0]), torch.tensor([1.0, 2.0]), "1 of 2 values are not finite"),
        (torch.tensor([NAN, INF, -INF]), torch.tensor([NAN, INF, -INF]), ""),
        (torch.tensor([INF, 0.0]), torch.tensor([-INF, 0.0]), "1 of 2 values are not finite"),
        (torch.tensor([3, 1000]), torch.tensor([3, 1001]), "1 of 2 values differ"),
        ((ROW, None, 2), [ROW.clone(), None, 2], ""),
        ((ROW, None, 2), (ROW, None, 3), "2 instead of 3"),
        ({"a": ROW}, {"a": ROW, "b": ROW}, "1 results instead of 2"),
        (ROW.numpy(), ROW, ""),
        (torch.empty(0, 3), torch.empty(0, 3), ""),
        (torch.tensor([1e-7]), torch.zeros(1), ""),  # what is left of a sum that cancels
    ],
)
def test_shapes_dtypes_and_numbers_are_held_against_what_is_wanted(made, wanted, said):
    row = compared(made, wanted)
    assert said in row["said"] and bool(said) == bool(row["said"])
    assert row["verdict"] == ("wrong" if said else "right")
