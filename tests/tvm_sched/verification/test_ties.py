"""Indices and comparisons that rounding decides are let through, others are not."""

import pytest
import torch
from torch import nn

from tvm_sched.frontend.torch_export import from_torch
from tvm_sched.verification import ties
from tvm_sched.verification.core import values


class Of(nn.Module):
    """A function of one tensor."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) + 0  # an operator, so that there is something to compile


X = torch.tensor([[1.0, 3.0, 3.00001, 0.0], [5.0, 5.0, -1.0, 2.0]])
IMAGE = torch.tensor([[[[1.0, 1.0, 0.0, 2.0], [0.0, 0.5, 2.00001, 0.0]]]])


def explained(function, x, ours):
    """Whether `ours` would be let through as the function's result."""
    core = from_torch(Of(function), x).core
    known = values(core, [x.numpy()])
    output = next(iter(reversed([node for node in core.graph.nodes if node.op == "call_function"])))
    (source,) = output.all_input_nodes  # of the addition
    return ties.explains(source, torch.as_tensor(ours), known)


@pytest.mark.parametrize(
    ("function", "x", "right", "wrong"),
    [
        (lambda x: x.argmax(1), X, [1, 1], [0, 0]),
        (lambda x: x.argmax(1, keepdim=True), X, [[1], [1]], [[2], [3]]),
        (lambda x: x.argmax(), X, 5, 2),
        (lambda x: x.argmax(1)[:, None].to(torch.int32), X, [[1], [1]], [[3], [1]]),
        (lambda x: x.max(1).indices, X, [1, 1], [1, 2]),
        (lambda x: x.topk(2, 1).indices, X, [[1, 2], [1, 0]], [[1, 2], [1, 3]]),
        (lambda x: x.sort(1).indices, X, [[3, 0, 2, 1], [2, 3, 1, 0]], [[3, 0, 2, 1], [3, 2, 1, 0]]),
        (lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[1], IMAGE, [[[[1, 3]]]], [[[[4, 3]]]]),
        (lambda x: x > 3.0, X, [[0, 1, 1, 0], [1, 1, 0, 0]], [[1, 0, 1, 0], [1, 1, 0, 0]]),
    ],
)
def test_what_is_equal_but_for_rounding(function, x, right, wrong):
    dtype = Of(function)(x).dtype if function(x).dtype is not torch.bool else torch.bool
    assert explained(function, x, torch.tensor(right, dtype=dtype))
    assert not explained(function, x, torch.tensor(wrong, dtype=dtype))


def test_an_index_out_of_range_is_wrong():
    assert not explained(lambda x: x.argmax(1), X, torch.tensor([1, 4]))
    assert not explained(lambda x: x.argmax(1), X, torch.tensor([1, -1]))


def test_other_whole_numbers_have_no_ties():
    assert not explained(lambda x: x.int(), X, torch.tensor([[1, 3, 3, 0], [5, 5, -1, 1]], dtype=torch.int32))
