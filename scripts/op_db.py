"""PyTorch's operator database (`torch.testing._internal`) as small networks: a module and its inputs for each sample.

Kinds of operators:

- functional: `torch.nn.functional`'s
- tensor: arithmetic, comparisons, reductions, products, indexing and shapes of tensors: all that has no namespace and
  is none of the following
- other: other namespaces (fft, linalg, special, masked, signal, sparse), decompositions of matrices, complex numbers,
  gradients, and what is written for another device
- random: draws random numbers; value-dependent: the size of a result depends on values. Samples tell.
- undefined: gives memory as it is (`empty`), so that there are no numbers to compare
"""

import itertools
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
NAMESPACES = ("fft.", "linalg.", "special.", "masked.", "signal.", "sparse.", "torch.", "_", "jiterator_", "bmm.triton")
DECOMPOSITIONS = """cholesky cholesky_inverse cholesky_solve geqrf istft logdet lu lu_solve lu_unpack matrix_exp
    norm.nuc ormqr pca_lowrank pinverse qr stft svd svd_lowrank to_sparse triangular_solve"""
COMPLEX = "cdouble cfloat chalf complex polar view_as_complex view_as_real"
OTHER = {*DECOMPOSITIONS.split(), *COMPLEX.split()}
UNDEFINED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
UNDEFINED |= {"resize_as_"}
MOST = 400  # samples of an operator that are looked at; a few have thousands


def topk(x: torch.Tensor, k: int, dim: int = -1, *options: Any, **keywords: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The values that torch.topk gives and those at the places that it gives, each in order: of equal values PyTorch
    may take any.
    """
    values, places = torch.topk(x, k, dim, *options, **keywords)
    return values.sort(dim).values, x.gather(dim, places).sort(dim).values


def argsort(x: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> torch.Tensor:
    """The values at the places that torch.argsort gives, which may swap those of equal values."""
    return x.gather(dim, torch.argsort(x, dim=dim, descending=descending, stable=stable))


def sort(
    x: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sorted values, and those at the places that torch.sort gives."""
    values, places = torch.sort(x, dim=dim, descending=descending, stable=stable)
    return values, x.gather(dim, places)


FUNCTIONS = {"argsort": argsort, "sort": sort, "topk": topk}  # operators whose results PyTorch leaves open in part


class Applied(nn.Module):
    """An operator applied to a sample: its tensors are the module's inputs, all other arguments constants.

    A sample without tensors becomes a module of one input, which it returns beside the operator's result.
    """

    def __init__(self, function: Callable, arguments: tuple, keywords: dict):
        super().__init__()
        self.function = function
        self.leaves, self.structure = pytree.tree_flatten((arguments, keywords))
        self.places = [index for index, leaf in enumerate(self.leaves) if isinstance(leaf, torch.Tensor)]

    @property
    def is_empty(self) -> bool:
        """Whether one of its tensors has no elements."""
        return any(self.leaves[place].numel() == 0 for place in self.places)

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """The sample's tensors, contiguous and each with memory of its own."""
        given = [self.leaves[place].detach() for place in self.places] or [torch.ones(2)]
        return tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in given)

    def forward(self, *inputs: torch.Tensor) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, inputs, strict=False):
            leaves[place] = tensor
        arguments, keywords = pytree.tree_unflatten(leaves, self.structure)
        made = self.function(*arguments, **keywords)
        return made if self.places else (inputs[0], made)


@dataclass(frozen=True)
class Operator:
    """An entry of the database."""

    name: str  # with its variant: 'nn.functional.interpolate.bilinear'
    kind: str
    info: Any  # torch.testing._internal.opinfo.core.OpInfo

    @property
    def dtypes(self) -> list[str]:
        """Those of `DTYPES` that it takes."""
        return [name for name, dtype in DTYPES.items() if dtype in self.info.dtypes]

    def samples(self, dtype: str, count: int, seed: int) -> Iterator[Applied]:
        """At most `count` samples that have elements, the first ones and, for a quarter, some spread over all others;
        then the first that has none, if there is one.
        """
        for generator in (torch.manual_seed, random.seed, np.random.seed):
            generator(seed)
        given = self.info.sample_inputs("cpu", DTYPES[dtype], requires_grad=False, set_seed=False)
        given = [sample for sample in itertools.islice(given, MOST) if strided(sample)]
        function = FUNCTIONS.get(self.name, self.info.op)
        made = [Applied(function, (sample.input, *sample.args), sample.kwargs) for sample in given]
        whole = [module for module in made if not module.is_empty]
        first = count - count // 4
        spread = (
            np.linspace(first, len(whole) - 1, count - first, dtype=int) if len(whole) > count else range(first, count)
        )
        yield from (whole[index] for index in sorted({*range(first), *map(int, spread)}) if index < len(whole))
        yield from [module for module in made if module.is_empty][:1]


def strided(sample: Any) -> bool:
    """Whether all tensors of a sample are dense ones."""
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    return all(leaf.layout is torch.strided for leaf in leaves if isinstance(leaf, torch.Tensor))


@lru_cache
def operators() -> dict[str, Operator]:
    """All of the database, by name."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {info.full_name: Operator(info.full_name, kind(info.full_name), info) for info in op_db}


def kind(name: str) -> str:
    """An operator's kind, as the head of this file says."""
    if name in UNDEFINED:
        return "undefined"
    if name.startswith("nn.functional."):
        return "functional"
    if name.startswith("__"):  # Python's, as __radd__
        return "tensor"
    if name.startswith(NAMESPACES) or name in OTHER or name.endswith("_backward"):
        return "other"
    return "tensor"


def is_random(module: Applied) -> bool:
    """Whether its results depend on the state of PyTorch's generator, which the database's own functions set."""
    made = []
    with mock.patch("torch.manual_seed"):
        for seed in (0, 1):
            torch.default_generator.manual_seed(seed)
            made.append(pytree.tree_leaves(module(*module.inputs())))
    tensors = [(a, b) for a, b in zip(*made, strict=True) if isinstance(a, torch.Tensor)]
    return any(a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in tensors)


def may_be_random(program: torch.export.ExportedProgram) -> bool:
    """Whether an operator of the program is one that draws random numbers, if perhaps not with these arguments."""
    tags = [getattr(node.target, "tags", ()) for node in program.graph.nodes]
    return any(torch.Tag.nondeterministic_seeded in each for each in tags)


def has_sizes_by_value(program: torch.export.ExportedProgram) -> bool:
    """Whether the shape of a result, on the way or at the end, depends on values."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    leaves = pytree.tree_leaves(values)
    shapes = [leaf.shape for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return any(isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool) for leaf in leaves) or any(
        isinstance(extent, torch.SymInt) for shape in shapes for extent in shape
    )


def exported(module: Applied) -> torch.export.ExportedProgram:
    """torch.export's program of a sample; raises what torch.export raises."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module.eval(), module.inputs())
