"""Operators that move, pick, reduce and order numbers."""

import torch
import torch.nn.functional as F
from together import require_pytorchs

X = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))


def test_views_and_joins():
    functions = {
        "slices": lambda x: (x[:, 1:-1:2], x[..., -1], x[:, :, 3:100], x[:, 7:]),
        "flip": lambda x: (x.flip(1, 3), x + x.flip(-1)),
        "joined": lambda x: torch.cat([x, x[:, :0], x * 2], 1),
        "stacked": lambda x: torch.stack([x, -x], 2),
        "split": lambda x: (*x.split([1, 2, 3], 1), *x.chunk(2, 2), *x.unbind(0)),
        "roll": lambda x: x.roll((1, -2), (1, 2)),
        "repeat": lambda x: (x.repeat(1, 2, 1, 1), x.repeat_interleave(2, 1), x.tile(2)),
        "diagonal": lambda x: (x.diagonal(1, 2, 3), torch.diagonal_scatter(x, x[:, :, 0, :4], 0, 2, 3)),
        "triangles": lambda x: (x.tril(), x.triu(1)),
        "windows": lambda x: x.unfold(2, 3, 2),
        "scattered slices": lambda x: (
            torch.select_scatter(x, x[:, 0], 1, 3),
            torch.slice_scatter(x, x[:, :2], 1, 1, 5, 2),
        ),
        "as strided": lambda x: torch.as_strided(x, (3, 4), (7, 2), 5),
        "pixels": lambda x: (F.pixel_shuffle(x[:, :4], 2), F.pixel_unshuffle(x[:, :, :4], 2), F.channel_shuffle(x, 3)),
        "cast bits": lambda x: x.view(torch.int32),
        "grid": lambda x: torch.meshgrid(x[0, 0, 0], x[0, 0, 1], indexing="ij"),
    }
    require_pytorchs(functions, X)


def test_padding():
    functions = {
        mode: lambda x, mode=mode: F.pad(x, (1, 2, 0, 3), mode=mode) for mode in ("reflect", "replicate", "circular")
    }
    functions |= {
        "constant": lambda x: F.pad(x, (1, 2, 0, 3, 2, 0), value=-1.5),
        "negative": lambda x: F.pad(x, (-1, 2, 0, -2)),
        "of whole numbers": lambda x: F.pad((x * 9).long(), (1, 1), value=7),
        "of booleans": lambda x: F.pad(x > 0, (0, 2), value=True),
        "in a row": lambda x: F.pad(x[0], (2, 1), mode="reflect"),
        "in a volume": lambda x: F.pad(x[None], (1, 1, 2, 0, 1, 1), mode="replicate"),
    }
    require_pytorchs(functions, X)


def test_reductions():
    names = "sum mean amax amin logsumexp var std prod argmax argmin any all median cumsum cumprod nansum"
    functions = {name: lambda x, name=name: getattr(torch, name)(x, 1) for name in names.split()}
    functions |= {
        "of all": lambda x: (x.sum(), x.mean(), x.max(), x.min(), x.prod(), x.argmax(), x.var(), x.median(), x.norm()),
        "axes": lambda x: (x.sum((1, 3)), x.mean((-1, 0), keepdim=True), x.amax((2, 3)), x.std((0, 2), correction=0)),
        "with places": lambda x: (*x.max(2), *x.min(-1, keepdim=True), *x.cummax(1), *x.cummin(3)),
        "norms": lambda x: (x.norm(dim=1), x.norm(p=1, dim=(1, 2)), F.normalize(x), x.norm(p=float("inf"), dim=3)),
        "mean and spread": lambda x: (*torch.std_mean(x, 1), *torch.var_mean(x, (2, 3), keepdim=True)),
        "counts": lambda x: ((x > 0).sum(1), (x > 0).cumsum(2), torch.count_nonzero(x > 0, 3)),
        "whole": lambda x: ((x * 9).long().sum(1), (x * 9).long().amax(1), (x * 9).long().prod(3)),
        "softmax": lambda x: (x.softmax(1), x.log_softmax(-1), F.softmin(x, 2)),
    }
    require_pytorchs(functions, X)


def test_orders():
    functions = {
        "sort": lambda x: (*x.sort(1), *x.sort(2, descending=True)),
        "topk": lambda x: (*x.topk(3, 1), *x.topk(2, -1, largest=False)),
        "argsort": lambda x: x.argsort(2),
        "k-th": lambda x: (*x.kthvalue(2, 1), *x.median(2)),
        "found": lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), x),
        "buckets": lambda x: torch.bucketize(x, torch.tensor([-0.5, 0.5]), right=True),
    }
    require_pytorchs(functions, X)


def test_picks_and_scatters():
    index = torch.tensor([2, -1, 0])
    functions = {
        "rows": lambda x, i: (x[:, index], x.index_select(2, i), x[:, :, i], x[:, i - 6]),
        "two axes": lambda x, i: (x[:, i, i], x[:, i, :, i], x[:, i[:, None], i]),
        "gathered": lambda x, i: (x.gather(1, (x > 0).long()), x.take_along_dim(x.argsort(1), 1)),
        "embedded": lambda x, i: F.embedding(i, x[0, 0]),
        "one-hot": lambda x, i: F.one_hot(i, 5),
        "scattered": lambda x, i: (
            x.scatter(1, (x > 0).long()[:, :1], 3.0),
            x.scatter_add(2, (x > 0).long(), x),
            x.scatter_reduce(1, (x > 0).long(), x, "amax"),
            x.scatter_reduce(1, (x > 0).long(), x, "mean", include_self=False),
        ),
        "put": lambda x, i: (
            x.index_put((torch.tensor([0, 1]), torch.tensor([1, 3])), x[:, 0] * 9),
            x.index_add(1, i, x[:, :3]),
            x.index_copy(2, i, x[:, :, :3] * 2),
            x.index_fill(1, i, 4.0),
        ),
        "masked": lambda x, i: (
            x.masked_fill(x > 0, 1.0),
            torch.where(x > 0, x, 0),
            x.masked_scatter(x > 0, x.flip(0)),
        ),
    }
    require_pytorchs(functions, X, torch.tensor([0, 3, 2]))
