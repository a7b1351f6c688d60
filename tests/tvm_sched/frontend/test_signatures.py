"""Signatures of exported programs: names, dtypes, ranges, and structures that are built again as PyTorch's pytree."""

import collections
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from subp_contract.errors import UserError
from tvm_sched.frontend import torch_export
from tvm_sched.frontend.signatures import signature_of
from tvm_sched.signature import TensorSpec, unflatten
from tvm_sched.verification.reference import Reference

Point = collections.namedtuple("Point", "x y")


@dataclass
class Boxes:
    corners: torch.Tensor
    scores: torch.Tensor | None


class ModelOutput(collections.OrderedDict):
    """An ordered dictionary whose entries are attributes too, as transformers' networks return."""

    def __init__(self, logits=None, hidden=None):
        super().__init__(
            {key: value for key, value in {"logits": logits, "hidden": hidden}.items() if value is not None}
        )

    def __getattr__(self, name):
        return self[name]


class Box:
    """Cannot be built of its fields by name."""

    def __init__(self, pair):
        self.pair = pair


torch.export.register_dataclass(Boxes, serialized_type_name="tests.Boxes")
pytree.register_pytree_node(
    ModelOutput,
    lambda value: (list(value.values()), list(value)),
    lambda values, keys: ModelOutput(**dict(zip(keys, values, strict=True))),
)
pytree.register_pytree_node(Box, lambda box: (list(box.pair), None), lambda values, _: Box(tuple(values)))


class Net(nn.Module):
    """Computes what `function` does."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, boxes=(), n=3, *, mask=None, flag=False):
        return self.function(x)


def exported(function, *args, **kwargs):
    return torch_export.export(Net(function), args, kwargs)


X = torch.zeros(2, 3)


def test_inputs_are_named_by_parameters_keys_and_places():
    kwargs = {"mask": {"a b": X > 0, "deep": [X.long() - 2]}, "flag": True}
    signature = signature_of(exported(lambda x: x + 1, X, (X.half(), [X.double()]), 5, **kwargs))
    assert signature.inputs == (
        TensorSpec("x", (2, 3), "float32"),
        TensorSpec("boxes_0", (2, 3), "float16"),
        TensorSpec("boxes_1_0", (2, 3), "float64"),
        TensorSpec("mask_a_b", (2, 3), "bool", (0, 0)),
        TensorSpec("mask_deep_0", (2, 3), "int64", (-2, -2)),
    )
    assert signature.parameters == ("x", "boxes", "n")
    args, kwargs = unflatten(signature.input_structure, range(5))
    assert args == (0, (1, [2]), 5) and kwargs == {"mask": {"a b": 3, "deep": [4]}, "flag": True}


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x + 1, ["output"]),
        (lambda x: (x + 1,), ["output_0"]),
        (lambda x: [x + 1, None, (x, 2, "a", 0.5)], ["output_0", "output_2_0"]),
        (lambda x: {"out": x + 1, "aux": [x * 2], 3: x}, ["out", "aux_0", "output_3"]),
        (lambda x: collections.OrderedDict(a=x + 1), ["a"]),
        (lambda x: Point(x + 1, Point(x, x * 2)), ["x", "y_x", "y_y"]),
        (lambda x: Boxes(x + 1, None), ["corners"]),
        (lambda x: (Boxes(x + 1, x),), ["output_0_corners", "output_0_scores"]),
        (lambda x: ModelOutput(x + 1, hidden=(x, x)), ["logits", "hidden_0", "hidden_1"]),
        (lambda x: ModelOutput(hidden=x + 1), ["hidden"]),
    ],
)
def test_outputs_are_built_again_as_they_were(function, names):
    signature = signature_of(exported(function, X))
    assert [spec.name for spec in signature.outputs] == names
    wanted = function(X)
    leaves = [leaf for leaf in pytree.tree_leaves(wanted) if isinstance(leaf, torch.Tensor)]
    made = unflatten(signature.output_structure, leaves)
    same = pytree.tree_map(lambda one, other: one is other or one == other, made, wanted)
    assert all(leaf is True for leaf in pytree.tree_leaves(same))
    assert type(made) is type(wanted)


def test_pytorchs_own_tuples_become_plain_ones():
    signature = signature_of(exported(lambda x: (x.max(1), x.shape), X))
    assert [spec.name for spec in signature.outputs] == ["output_0_values", "output_0_indices"]
    largest, shape = unflatten(signature.output_structure, "ab")
    assert (largest.values, largest.indices) == ("a", "b") and shape == (2, 3)


def test_a_class_that_cannot_be_built_by_its_fields_becomes_a_dict():
    signature = signature_of(exported(lambda x: Box((x + 1, x * 2)), X))
    assert unflatten(signature.output_structure, "ab") == {0: "a", 1: "b"}


def test_one_tensor_given_twice_is_two_inputs():
    class Difference(nn.Module):
        def forward(self, x, y):
            return x - 2 * y

    one, two = np.ones((2, 3), "float32"), np.full((2, 3), 5, "float32")
    imported = torch_export.from_torch(Difference(), (X, X))
    (made,) = Reference(imported.program, imported.signature)([one, two])
    assert (made == -9).all()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: {(1, 2): x}, r"a dictionary with the key \(1, 2\)"),
        (lambda x: torch.complex(x, x), "operator `complex` .*gives complex numbers"),
    ],
)
def test_what_cannot_be_told_is_refused(function, words):
    with pytest.raises(UserError, match=words):
        signature_of(exported(function, X))


def test_examples_must_be_there():
    with pytest.raises(UserError, match="example inputs are missing"):
        torch_export.from_torch(nn.ReLU())
