"""What a network takes and gives: its tensors by name, and the structure of tuples and dictionaries they stand in.

A structure is PyTorch's pytree in plain data, so that an artifact takes and gives what the module does without PyTorch.
Its leaves are tensors, by their place in the flat list that 'main' takes or returns, and constants. The network was
compiled for its inputs' constants: no others can be given. A namedtuple's or another class is known by module and
name. Where that module has not been imported (loading a network imports nothing) a namedtuple of the same fields
stands for the one, and a dict for the other.
"""

import collections
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod
from operator import is_
from typing import Any

import numpy as np

from subp_contract.errors import UserError

SEQUENCES = {"tuple": tuple, "list": list}
MAPPINGS: dict[str, Callable] = {"dict": dict, "ordered_dict": collections.OrderedDict}
MEMBERS = ("inputs", "outputs", "input_structure", "output_structure", "parameters")  # of a signature in JSON
CLASSES = ("namedtuple", "object")  # containers of a class of the user's


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that 'main' takes or returns."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # NumPy's name for it, or bfloat16
    # Least and largest value of the example; of fractions only where not all of them can be given.
    range: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"'{self.name}', {list(self.shape)} of {self.dtype}"

    @property
    def is_floating(self) -> bool:
        """Whether it holds fractions."""
        return "float" in self.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * numpy_dtype(self.dtype).itemsize

    def to_json(self) -> dict:
        """As plain data."""
        bounds = {"range": list(self.range)} if self.range else {}
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, **bounds}

    @classmethod
    def from_json(cls, data: Mapping) -> "TensorSpec":
        """From what `to_json` gave."""
        bounds = data.get("range")
        return cls(data["name"], tuple(data["shape"]), data["dtype"], None if bounds is None else tuple(bounds))


@dataclass(frozen=True)
class Structure:
    """A tree: 'tensor' and 'constant' are its leaves, the keys of SEQUENCES and MAPPINGS, and CLASSES, its nodes."""

    kind: str
    value: Any = None  # a tensor's number, or a constant
    children: tuple["Structure", ...] = ()
    keys: tuple = ()  # of a mapping, or the names of a class's fields
    class_name: str = ""  # module:Class

    def to_json(self) -> dict:
        """As plain data."""
        children = [child.to_json() for child in self.children]
        if self.kind in SEQUENCES:
            return {self.kind: children}
        if self.kind in MAPPINGS or self.kind in CLASSES:
            named = {"class": self.class_name} if self.kind in CLASSES else {}
            return {self.kind: [list(each) for each in zip(self.keys, children, strict=True)], **named}
        return {self.kind: self.value}

    @classmethod
    def from_json(cls, data: Mapping) -> "Structure":
        """From what `to_json` gave."""
        kind, value = next(iter(data.items()))
        if kind in SEQUENCES:
            return cls(kind, children=tuple(map(cls.from_json, value)))
        if kind in MAPPINGS or kind in CLASSES:
            keys, children = tuple(key for key, _ in value), tuple(cls.from_json(child) for _, child in value)
            return cls(kind, children=children, keys=keys, class_name=data.get("class", ""))
        return cls(kind, value)

    @cached_property
    def of_arrays(self) -> "Structure":
        """The structure without the places of tuples and lists that hold None, which are no arrays."""
        children = self.children
        if self.kind in SEQUENCES:
            children = tuple(child for child in children if (child.kind, child.value) != ("constant", None))
        children = tuple(child.of_arrays for child in children)
        same = len(children) == len(self.children) and all(map(is_, children, self.children))
        return self if same else replace(self, children=children)

    def paths(self, path: tuple = ()) -> Iterator[tuple[tuple, "Structure"]]:
        """(keys and places on the way to it, leaf) of each leaf, in the pytree's order."""
        for key, child in zip(self.keys or range(len(self.children)), self.children, strict=True):
            yield from child.paths((*path, key))
        if self.kind in ("tensor", "constant"):
            yield path, self


@dataclass(frozen=True)
class Signature:
    """What a network takes and gives."""

    inputs: tuple[TensorSpec, ...]  # that 'main' takes, in order
    outputs: tuple[TensorSpec, ...]
    input_structure: Structure  # a tuple of positional arguments, and a dict of keyword arguments
    output_structure: Structure
    parameters: tuple[str, ...]  # names of the positional arguments

    def to_json(self) -> dict:
        """As plain data: members of a manifest."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "input_structure": self.input_structure.to_json(),
            "output_structure": self.output_structure.to_json(),
            "parameters": list(self.parameters),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> "Signature":
        """From a manifest."""
        return cls(
            tuple(map(TensorSpec.from_json, data["inputs"])),
            tuple(map(TensorSpec.from_json, data["outputs"])),
            Structure.from_json(data["input_structure"]),
            Structure.from_json(data["output_structure"]),
            tuple(data["parameters"]),
        )

    @property
    def is_plain(self) -> bool:
        """Whether the network takes one tensor and nothing else."""
        (args, kwargs) = self.input_structure.children
        return [child.kind for child in args.children] == ["tensor"] and not kwargs.children

    def flatten(self, args: Sequence, kwargs: Mapping) -> list:
        """The tensors of a call in the order of `inputs`. Raises UserError where arguments are missing, too many, or of
        another structure, and for another constant than the network was compiled for.
        """
        positional, keywords = self.input_structure.children
        names = self.parameters
        every = (*names, *keywords.keys)
        if len(args) > len(names):
            more = f", and by keyword {', '.join(keywords.keys)}" if keywords.keys else ""
            raise UserError(
                f"{len(args)} positional inputs were given; the network takes {len(names)} ({', '.join(names)}){more}"
            )
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in every:
                raise UserError(f"the network takes no input '{name}'; its inputs are {', '.join(every)}")
            if name in given:
                raise UserError(f"input '{name}' was given twice, by its place and by its name")
            given[name] = value
        if missing := [name for name in every if name not in given]:
            raise UserError(f"input '{missing[0]}' is missing; the network takes {', '.join(every)}")
        found: list = [None] * len(self.inputs)
        for name, structure in zip(every, (*positional.children, *keywords.children), strict=True):
            _fill(structure, given[name], name, found)
        return found


def _fill(structure: Structure, value: Any, path: str, found: list) -> None:
    """Puts the tensors of `value` at their places in `found`. Raises UserError where `value` has another structure."""
    kind, children = structure.kind, structure.children
    if kind == "tensor":
        found[structure.value] = value
    elif kind == "constant":
        if type(value) is not type(structure.value) or value != structure.value:
            given = repr(value) if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__
            raise UserError(
                f"input '{path}' is {given}; the network was compiled for {structure.value!r} there: compile it again"
            )
    elif kind in SEQUENCES or (kind == "namedtuple" and isinstance(value, tuple)):
        if not isinstance(value, (tuple, list)) or len(value) != len(children):
            given = f"{type(value).__name__} of {len(value)}" if isinstance(value, (tuple, list)) else type_name(value)
            raise UserError(f"input '{path}' must be a {kind} of {len(children)}, not {given}")
        for place, (child, item) in enumerate(zip(children, value, strict=True)):
            _fill(child, item, f"{path}[{place}]", found)
    elif isinstance(value, Mapping):
        if set(value) != set(structure.keys):
            keys = [", ".join(map(str, each)) or "none" for each in (structure.keys, value)]
            raise UserError(f"input '{path}' must be a {kind} with the keys {keys[0]}, not {keys[1]}")
        for key, child in zip(structure.keys, children, strict=True):
            _fill(child, value[key], f"{path}[{key!r}]", found)
    elif kind in CLASSES and all(hasattr(value, name) for name in structure.keys):
        for name, child in zip(structure.keys, children, strict=True):
            _fill(child, getattr(value, name), f"{path}.{name}", found)
    else:
        wanted = structure.class_name.rpartition(":")[2] or kind
        raise UserError(f"input '{path}' must be a {wanted}, not {type_name(value)}")


def unflatten(structure: Structure, tensors: Sequence) -> Any:
    """The value of that structure, of its tensors by their numbers."""
    kind = structure.kind
    if kind == "tensor":
        return tensors[structure.value]
    if kind == "constant":
        return structure.value
    values = [unflatten(child, tensors) for child in structure.children]
    if kind in SEQUENCES:
        return SEQUENCES[kind](values)
    if kind in MAPPINGS:
        return MAPPINGS[kind](zip(structure.keys, values, strict=True))
    return class_of(structure)(**dict(zip(structure.keys, values, strict=True)))


def class_of(structure: Structure) -> Callable:
    """What makes a 'namedtuple' or an 'object' of its fields: its class, where that has been imported, or what stands
    for it.
    """
    module, _, name = structure.class_name.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if structure.kind == "object":
        return found if isinstance(found, type) else dict
    if isinstance(found, type) and getattr(found, "_fields", None) == structure.keys:
        return found
    return _namedtuple(name.rpartition(".")[2], structure.keys)


@lru_cache(maxsize=256)
def _namedtuple(name: str, fields: tuple[str, ...]) -> type:
    return collections.namedtuple(name, fields)


def type_name(value: Any) -> str:
    """Of what kind a value is, in words."""
    return "None" if value is None else type(value).__name__


def named(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The tensors with names that no two share: a number is put behind the later one's."""
    taken: set[str] = set()
    found = []
    for spec in specs:
        name, number = spec.name, 1
        while name in taken:
            number += 1
            name = f"{spec.name}_{number}"
        taken.add(name)
        found.append(replace(spec, name=name))
    return tuple(found)


def joined(*path: Any) -> str:
    """A name of keys and places, `boxes_0`, that can stand for a file's or a variable's."""
    return "_".join("".join(each if each.isalnum() else "_" for each in str(part)) for part in path)


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's type; of bfloat16 that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_bfloat16(array: np.ndarray) -> bool:
    """Whether an array's type is ml_dtypes' bfloat16."""
    return array.dtype.name == "bfloat16"


def check_inputs(inputs: Sequence[TensorSpec], seed: int) -> list[np.ndarray]:
    """What a compiled network is checked on: standard normal numbers of NumPy's default generator, or evenly spread
    ones within a `range`; integers and booleans from the least to the largest that the example has there, so that
    indices stay valid.
    """
    rng = np.random.default_rng(seed)
    return [_random(spec, rng) for spec in inputs]


def _random(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    dtype = numpy_dtype(spec.dtype)
    if spec.is_floating:
        exact = dtype if spec.dtype in ("float32", "float64") else np.dtype("float32")
        if spec.range:
            return np.asarray(rng.uniform(*spec.range, spec.shape)).astype(dtype)
        return np.asarray(rng.standard_normal(spec.shape, dtype=exact)).astype(dtype)
    low, high = spec.range or (0, 1)
    return np.asarray(rng.integers(int(low), int(high), spec.shape, dtype=dtype, endpoint=True))
