"""A few operators of PyTorch's own database; `scripts/check_op_db.py` tries them all."""

import op_db
import pytest
from check_op_db import judged_sample

RIGHT = {
    "nn.functional.conv2d": ["float32"],
    "nn.functional.interpolate.bicubic": ["float32"],
    "nn.functional.avg_pool2d": ["float32"],
    "nn.functional.scaled_dot_product_attention": ["float32"],
    "nn.functional.pad.circular": ["float32", "bool"],
    "nn.functional.batch_norm": ["float32"],
    "native_batch_norm": ["float32"],
    "add": ["float32", "int64", "bool"],
    "true_divide": ["float32", "int64"],
    "div.floor_rounding": ["float32", "int64"],
    "remainder": ["float32", "int64"],
    "sum": ["float32", "int64", "bool"],
    "amax": ["float32", "bool"],
    "cumsum": ["float32", "int64"],
    "where": ["float32", "int64"],
    "index_select": ["float32", "bool"],
    "__getitem__": ["float32"],
    "matmul": ["float32", "int64"],
    "permute": ["float32", "bool"],
    "topk": ["int64"],
    "sort": ["bool"],
}
REFUSED = {"fft.rfft2": "fft", "nonzero": "nonzero", "normal": "normal", "linalg.eigh": "eigh", "linalg.inv": "inv"}


@pytest.fixture(autouse=True)
def no_test_of_pytorchs(monkeypatch):
    """The database looks through the whole stack which of PyTorch's own tests asks for samples: none does."""
    from torch.testing._internal import common_utils
    from torch.testing._internal.opinfo import core

    for module in (common_utils, core):
        monkeypatch.setattr(module, "extract_test_fn", lambda: None)


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtypes in RIGHT.items() for dtype in dtypes])
def test_an_operator_has_pytorchs_numbers(name, dtype):
    rows = [judged_sample(module) for module in op_db.operators()[name].samples(dtype, 2, seed=1)]
    assert any(row["verdict"] == "right" for row in rows)
    assert [row["said"] for row in rows if row["verdict"] != "right" and row["kind"] != "random"] == []


@pytest.mark.parametrize(("name", "word"), REFUSED.items())
def test_what_cannot_be_is_refused_by_name(name, word):
    rows = [judged_sample(module) for module in op_db.operators()[name].samples("float32", 2, seed=1)]
    assert rows
    assert [row["said"] for row in rows if row["verdict"] != "refused" or word not in row["said"]] == []


def test_samples_that_draw_random_numbers_are_known():
    dropout = op_db.operators()["nn.functional.dropout"]
    known = {module.structure: op_db.is_random(module) for module in dropout.samples("float32", 8, seed=0)}
    assert any(known.values()) and not all(known.values())
    assert not any(op_db.is_random(module) for module in op_db.operators()["add"].samples("float32", 4, seed=0))


def test_another_seed_gives_other_numbers():
    first, again, other = (next(op_db.operators()["add"].samples("float32", 1, seed)).inputs()[0] for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
