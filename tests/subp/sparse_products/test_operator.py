"""The operators of torch.library around the products: gradients, fake tensors, autocast, rows of linear layers."""

import pytest
import torch
from torch.nn import functional

from subp.sparse_products import linear
from subp.sparse_products.linear import block_linear, pieces
from subp.sparse_products.operator import block_conv2d, input_gradient, weight_gradient

INDEX = torch.tensor([[0, 2], [1, 4]], dtype=torch.int32)


@pytest.fixture(autouse=True)
def built_once(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def operands(dtype=torch.float64):
    torch.manual_seed(0)
    mask = torch.zeros(2, 5, dtype=torch.bool).scatter_(1, INDEX.long(), True).repeat_interleave(4, 0)
    weight = torch.randn(8, 5, 3, 3, dtype=dtype) * mask[:, :, None, None]
    return torch.randn(2, 5, 6, 5, dtype=dtype).requires_grad_(), weight.requires_grad_()


CONV = [2, 1], [1, 0], [1, 2], 1  # stride, padding, dilation, groups


def test_gradients_are_those_of_finite_differences():
    x, weight = operands()
    kept = weight.detach() != 0  # finite differences of pruned blocks are not zero, where the products read them

    def function(x, weight):
        return block_conv2d(x, torch.where(kept, weight, 0), INDEX, *CONV, [1, 1, 1])

    assert torch.autograd.gradcheck(function, (x, weight))


@pytest.mark.parametrize("sparse", [(1, 1, 1), (0, 1, 0), (1, 0, 1)])
def test_each_product_may_be_pytorchs(sparse):
    x, weight = operands()
    expected = torch.conv2d(x, weight, None, *CONV)
    y = block_conv2d(x, weight, INDEX, *CONV, sparse)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(each, (x, weight), dy) for each in (y, expected))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1] if not sparse[2] else torch.where(weight != 0, theirs[1], 0))


def test_other_dtypes_than_the_weights_are_refused():
    x, weight = operands()
    for given, index in ((x.float(), INDEX), (x, INDEX.long())):
        with pytest.raises(TypeError, match="float64 with an index of int32 were given"):
            block_conv2d(given, weight, index, *CONV, [1, 1, 1])


@pytest.mark.parametrize("sparse", [(1, 1, 1), (0, 1, 0)])
def test_linear_layers_are_pytorchs_of_rows_in_any_number_of_dimensions(sparse):
    x, weight = operands()
    x, weight = torch.randn(3, 5, 7, 5, dtype=weight.dtype).requires_grad_(), weight[:, :, 1, 1].detach()
    weight.requires_grad_()
    expected, y = functional.linear(x, weight), block_linear(x, weight, INDEX, sparse)
    dy = torch.randn_like(expected)
    torch.testing.assert_close(y, expected)
    ours, theirs = (torch.autograd.grad(each, (x, weight), dy) for each in (y, expected))
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1] if not sparse[2] else torch.where(weight != 0, theirs[1], 0))


def test_rows_are_cut_into_pieces_that_threads_share_and_caches_hold():
    assert pieces(3136, 1) == 7 and pieces(3136, 2) == 8
    assert pieces(64, 2) == 2 and pieces(6002, 1) == 1 and pieces(1, 4) == 1
    assert pieces(3001, 2) == 1  # a prime: in one piece, rather than row by row


def test_torch_library_finds_nothing_wrong():
    x, weight = operands(torch.float32)
    torch.library.opcheck(block_conv2d, (x, weight, INDEX, *CONV, [1, 1, 1]))
    y = torch.conv2d(x, weight, None, *CONV).detach()
    tests = "test_schema", "test_faketensor"
    x, weight = x.detach(), weight.detach()
    torch.library.opcheck(input_gradient, (y, weight, INDEX, x.shape, *CONV, True), test_utils=tests)
    torch.library.opcheck(weight_gradient, (x, y, weight, INDEX, *CONV, True), test_utils=tests)
    rows, matrix, dy = torch.randn(4, 5), torch.randn(8, 5), torch.randn(4, 8)
    torch.library.opcheck(linear._block_linear, (rows, matrix, INDEX, [1, 1, 1]), test_utils=tests)
    torch.library.opcheck(linear.input_gradient, (dy, matrix, INDEX, True), test_utils=tests)
    torch.library.opcheck(linear.weight_gradient, (rows, dy, INDEX, True), test_utils=tests)


def test_torch_compile_keeps_it_whole_and_autocast_computes_it_in_float32():
    x, weight = operands(torch.float32)

    def function(x):
        return block_conv2d(x.relu(), weight, INDEX, *CONV, [1, 1, 1]).sum(1)

    expected = function(x)
    torch.testing.assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y = block_conv2d(x.bfloat16(), weight, INDEX, *CONV, [1, 1, 1])
    assert y.dtype == torch.float32
