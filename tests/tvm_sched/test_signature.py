"""Structures without PyTorch: what a call takes apart, what it puts together, and each wrong argument told."""

import collections
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from subp_contract.errors import UserError
from tvm_sched.signature import Signature, Structure, TensorSpec, check_inputs, joined, named, unflatten

Point = collections.namedtuple("Point", "x y")


@dataclass
class Boxes:
    corners: object
    scores: object = None


def tensor(number):
    return Structure("tensor", number)


def constant(value):
    return Structure("constant", value)


POINT = Structure("namedtuple", None, (tensor(2), tensor(3)), ("x", "y"), f"{__name__}:Point")
BOXES = Structure("object", None, (tensor(4), constant(None)), ("corners", "scores"), f"{__name__}:Boxes")
ARGUMENTS = Structure("tuple", children=(tensor(0), Structure("list", children=(tensor(1), constant(3))), POINT))
KEYWORDS = Structure("dict", None, (BOXES, constant(True)), ("boxes", "flag"))
SIGNATURE = Signature(
    inputs=tuple(TensorSpec(name, (1, 2), "float32") for name in ("image", "sizes_0", "at_x", "at_y", "boxes_corners")),
    outputs=(TensorSpec("out", (), "int64", (0, 5)),),
    input_structure=Structure("tuple", children=(ARGUMENTS, KEYWORDS)),
    output_structure=Structure("ordered_dict", None, (tensor(0), constant(None)), ("out", 7)),
    parameters=("image", "sizes", "at"),
)
BOTH = {"boxes": Boxes("e"), "flag": True}


def test_it_is_the_same_after_json():
    assert Signature.from_json(json.loads(json.dumps(SIGNATURE.to_json()))) == SIGNATURE


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("a", ["b", 3], Point("c", "d")), BOTH),
        (("a", ("b", 3)), {"at": ("c", "d"), **BOTH}),
        (("a",), {"flag": True, "at": Point("c", "d"), "boxes": {"corners": "e", "scores": None}, "sizes": ["b", 3]}),
    ],
)
def test_a_call_is_taken_apart_by_place_and_by_name(args, kwargs):
    assert SIGNATURE.flatten(args, kwargs) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "input 'image' is missing; the network takes image, sizes, at, boxes, flag"),
        (("a", ["b", 3], Point("c", "d")), {"flag": True}, "input 'boxes' is missing"),
        (
            (1, 2, 3, 4),
            BOTH,
            r"4 positional inputs were given; the network takes 3 \(image, sizes, at\), and by keyword",
        ),
        (("a",), {"image": "a"}, "input 'image' was given twice"),
        (("a",), {"colour": 1}, "the network takes no input 'colour'; its inputs are image, sizes, at, boxes, flag"),
        (("a", ["b", 4], ("c", "d")), BOTH, r"input 'sizes\[1\]' is 4; the network was compiled for 3 there"),
        (("a", ["b", 3.0], ("c", "d")), BOTH, r"'sizes\[1\]' is 3.0; the network was compiled for 3"),
        (("a", ["b", np.ones(2)], ("c", "d")), BOTH, r"'sizes\[1\]' is ndarray; the network was compiled for 3"),
        (("a", ["b", 3], ("c", "d")), BOTH | {"flag": 1}, "input 'flag' is 1; the network was compiled for True"),
        (("a", ["b"], ("c", "d")), BOTH, "input 'sizes' must be a list of 2, not list of 1"),
        (("a", "b3", ("c", "d")), BOTH, "input 'sizes' must be a list of 2, not str"),
        (("a", ["b", 3], ("c",)), BOTH, "input 'at' must be a namedtuple of 2, not tuple of 1"),
        (("a", ["b", 3], None), BOTH, "input 'at' must be a Point, not None"),
        (("a", ["b", 3], ("c", "d")), BOTH | {"boxes": 5}, "input 'boxes' must be a Boxes, not int"),
        (("a", ["b", 3], ("c", "d")), BOTH | {"boxes": Boxes("e", 1)}, "input 'boxes.scores' is 1; .*for None"),
        (("a", ["b", 3], ("c", "d")), BOTH | {"boxes": {"corners": 1}}, "with the keys corners, scores, not corners"),
    ],
)
def test_a_wrong_call_is_told(args, kwargs, words):
    with pytest.raises(UserError, match=words) as caught:
        SIGNATURE.flatten(args, kwargs)
    assert "\n" not in str(caught.value)


def test_what_comes_out_has_its_classes():
    made = unflatten(Structure("tuple", children=(POINT, BOXES, SIGNATURE.output_structure)), "abcde")
    assert made == (Point("c", "d"), Boxes("e"), collections.OrderedDict({"out": "a", 7: None}))
    assert [type(each) for each in made] == [Point, Boxes, collections.OrderedDict]


def test_where_classes_are_not_imported_others_stand_for_them():
    code = f"""
import json, sys
from tvm_sched.signature import Structure, unflatten
point, boxes = (unflatten(Structure.from_json(each), "abcde") for each in {[POINT.to_json(), BOXES.to_json()]!r})
print(type(point).__name__, point._asdict(), boxes, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Point {'x': 'c', 'y': 'd'} {'corners': 'e', 'scores': None} False\n"


def test_names_are_unique():
    specs = [TensorSpec(name, (), "bool") for name in ("x", "y", "x", "x_2", "x")]
    assert [spec.name for spec in named(specs)] == ["x", "y", "x_2", "x_2_2", "x_3"]
    assert joined("boxes", 0, "a b/c") == "boxes_0_a_b_c"


def test_check_inputs_are_of_the_examples_range():
    specs = [
        TensorSpec("image", (50, 40), "float32"),
        TensorSpec("index", (50, 40), "int64", (3, 5)),
        TensorSpec("mask", (50, 40), "bool", (0, 1)),
        TensorSpec("all", (50,), "bool", (1, 1)),
        TensorSpec("bytes", (), "uint8", (7, 7)),
        TensorSpec("wide", (9,), "uint64", (2**64 - 2, 2**64 - 1)),
        TensorSpec("half", (50, 40), "float16"),
        TensorSpec("brain", (50, 40), "bfloat16"),
    ]
    made = check_inputs(specs, 0)
    assert [(each.shape, each.dtype.name) for each in made] == [(spec.shape, spec.dtype) for spec in specs]
    image, index, mask, every, number, wide, half, brain = made
    assert np.array_equal(image, np.random.default_rng(0).standard_normal((50, 40), dtype="float32"))
    assert set(np.unique(index)) == {3, 4, 5} and set(np.unique(mask)) == {False, True} and every.all()
    assert number == 7 and wide.min() >= 2**64 - 2
    assert all(0.9 < each.astype("float64").std() < 1.1 for each in (half, brain))
    assert all(np.array_equal(one, other) for one, other in zip(made, check_inputs(specs, 0), strict=True))
    assert not np.array_equal(image, check_inputs(specs, 1)[0])
