"""What a kernel is: all that the compiler knows of one stands in a subclass of `Kernel`, one file each, listed once in
`KERNELS`.

A layer's way through it, with the method that answers at each step:

    planning    forms      the layers it takes on a target, in which forms, and what each costs by estimate
    packing     pack       the weight as the file holds it
    lowering    call       the layer as Relax calls of its compute; the result carries marks
    afterwards  problem    what `compute` wrote on its block, read back from a fused function
    tuning      tiles      settings of the schedule that are worth trying, best guess first
                cycles     the estimate for one of them
                schedule   the rewrites
                arguments  what it is measured on
    estimation  loop_key   what tells one main loop from another

Marks: a function that is lowered from a layer says which kernel it holds and which layer it is, first on its block, the
only place that fusion keeps, then (`passes/graph/share_functions`) as an attribute of the function and as the name of
the variable that holds its result. So nobody has to guess either from shapes or from names.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from tvm import relax, te
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from subp_contract import pattern
from tvm_sched.kernels.layer import Layer, longest_row
from tvm_sched.targets import Target

KERNEL_MARK = "subp.kernel"  # on a block, and an attribute of the function
LAYER_MARK = "subp.layer"  # on a block
OPAQUE = {"op_pattern": 8}  # TVM's kOpaque: fused with nothing
FUSABLE = {"op_pattern": 4}  # TVM's kOutEWiseFusable: elementwise operators that follow go into the kernel's epilogue

Problem = Any  # a frozen dataclass of the kernel's own: the sizes of one function
Tile = Any  # likewise: one setting of its schedule; `str` tells it to the reader


@dataclass(frozen=True, eq=False)
class Form:
    """One way in which a kernel can compute a layer."""

    kernel: "Kernel"
    layer: Layer  # as the kernel sees it: the network's, or rearranged
    problem: Problem
    n: int | None  # block size; None where there are no blocks
    words: str  # for the reader: 'direct', 'winograd F(4,3)'
    cycles: float  # by estimate, with the best tile, on the target's cores
    rank: int  # among forms of equal cost, the lower the simpler
    details: Any = None  # of the kernel's own
    rounding: float = 1.0  # its error by rounding, in multiples of the direct kernel's
    weights: str | None = None  # dtype of 16 bits in which its weights are stored; None: the data's own

    @property
    def kept(self) -> np.ndarray:
        """Which blocks `[G, C]` of `layer` are computed, where there are blocks."""
        assert self.n is not None
        return self.layer.kept[self.n]

    @property
    def row_length(self) -> int:
        """Blocks that a block row computes."""
        return longest_row(self.kept)

    @property
    def name(self) -> str:
        """The kernel and its block size, for the reader."""
        return self.name_of(self.weights)

    @property
    def wide_name(self) -> str:
        """That of the same form with weights of the data's dtype."""
        return self.name_of(None)

    def name_of(self, weights: str | None) -> str:
        """Its name were its weights stored as these."""
        name = f"{self.words} 1x{self.n}" if self.n else self.words
        return f"{name}, {weights} weights" if weights else name


@dataclass(frozen=True)
class Savings:
    """What of a layer's dense work a form computes, for the reader."""

    n: int | None  # block size of the zeros found; None without any
    density: float  # fraction of the blocks of that size that are kept
    kept: int  # blocks that a block row of the kernel's own size computes
    total: int  # blocks that a block row has
    macs: int  # multiply-adds of what is computed, by direct convolution, the whole batch


@dataclass(frozen=True)
class Example:
    """A kind of layer whose main loop is looked at where a CPU is judged by its machine code."""

    n: int  # block size; 1 for a depthwise layer
    sparse: bool
    size: int  # of the convolution's kernel
    stride: int = 1

    def __str__(self) -> str:
        kind = "sparse" if self.sparse else "dense"
        return f"1x{self.n} {kind} {self.size}x{self.size} stride {self.stride}"


# A form's error by weights stored so, in multiples of the direct kernel's with float32 ones (of a relative 1e-6),
# measured on 256 channels of normal numbers.
STORED_ROUNDING = {None: 1.0, "float16": 210.0, "bfloat16": 1700.0}
MOST_STORED_ROUNDING = 4000.0  # that a form may have by its weights
MOST_TILES = 32  # of a kernel that are worth trying
EXAMPLE_SIZES = (4, 8, 16, 32)  # of blocks


class Kernel(ABC):
    """See the module's docstring. Kernels hold no state."""

    name: ClassVar[str]  # of the kernel, in marks and of its functions; its blocks have names of their own
    dtypes: ClassVar[Sequence[str]] = ("float32",)  # of the layers that it is offered
    examples: ClassVar[Sequence[Example]] = ()
    rounds: ClassVar[bool] = False  # whether `call` takes a `rounding` of the sums, and the tensors for it
    adds: ClassVar[bool] = False  # whether that may add a residual, which comes first of these tensors
    after_space_to_depth: ClassVar[bool] = False  # whether it is also offered strided layers that were made stride 1

    @abstractmethod
    def forms(self, layer: Layer, target: Target) -> Iterable[Form]:
        """The forms in which it takes the layer; none where it does not."""

    def why(self, layer: Layer, form: Form) -> str:
        """Why the network's `layer` runs in this form, and what it skips, for the reader."""
        return reason(layer, form.n) if form.n else "dense: this kernel has no blocks"

    def savings(self, layer: Layer, form: Form) -> Savings:
        """What of the network's `layer` is computed."""
        if form.n is None:
            return Savings(None, 1.0, layer.channels, layer.channels, layer.macs)
        rows, channels = form.kept.shape
        dense = prod(layer.image) * rows * form.n * prod(layer.kernel)  # of one channel
        macs = round(dense * form.row_length / channels * layer.channels)
        return Savings(layer.zeros.n if layer.zeros else None, layer.density, form.row_length, channels, macs)

    def pack(self, form: Form) -> list[np.ndarray]:
        """The weight as the file holds it: blocks `[G, K, kh, kw, N]`, of 16 bits where the form has them so, and where
        not all are kept their channels `[G, K]` int32.
        """
        assert form.n is not None, "a kernel without blocks packs in a way of its own"
        data, indices = pattern.pack(form.layer.ungrouped, form.kept, form.n)
        data = data.astype(dtype_named(form.weights)) if form.weights else data
        return [data] if indices is None else [data, indices]

    @abstractmethod
    def call(
        self, builder: relax.BlockBuilder, x: relax.Expr, weights: Sequence[relax.Expr], form: Form, marks: dict
    ) -> relax.Expr:
        """The layer on `x`, channels last, of the shape `form.layer.output`; `weights` are constants of what `pack`
        gave. `marks` are to be attributes of the kernel's block.
        """

    @abstractmethod
    def problem(self, sch: Schedule) -> Problem:
        """The sizes of a function that holds this kernel."""

    @abstractmethod
    def tiles(self, problem: Problem, target: Target, most: int = MOST_TILES) -> list[Tile]:
        """Tiles worth trying, `most` at the most, best guess first; never empty."""

    @abstractmethod
    def cycles(self, problem: Problem, tile: Tile, target: Target, fma_cycles: float | None = None) -> float:
        """Estimated cycles of the function on the target's busiest core. `fma_cycles`: those of one vector's
        multiply-add in the main loop, where they are known.
        """

    def copying_cycles(self, problem: Problem, target: Target) -> float:
        """Estimated cycles of copies that the function makes besides, such as a padded image."""
        return 0.0

    @abstractmethod
    def schedule(self, sch: Schedule, tile: Tile, target: Target) -> None:
        """Rewrites the compute, and what was fused behind it."""

    def arguments(
        self, problem: Problem, infos: Sequence[tuple[str, tuple[int, ...]]], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Arrays of these (dtype, shape) to measure the function on: standard normal numbers, whole ones where they are
        integers, and for an int32 matrix distinct sorted channels of the first argument a row. TVM's own choice draws
        channels that there are not.
        """
        channels = infos[0][1][-1]
        return [
            distinct_rows(rng, shape, channels) if dtype == "int32" and len(shape) == 2 else normal(rng, dtype, shape)
            for dtype, shape in infos
        ]

    def loop_key(self, problem: Problem, tile: Tile) -> tuple:
        """What tells the main loop of one function from another's, where fewer differ than functions do: neither the
        image's size nor how many channels are kept (though LLVM unrolls a loop over few).
        """
        return self.name, problem, tile

    def marked(self, layer_key: str) -> dict:
        """The marks of a layer that this kernel computes."""
        return {KERNEL_MARK: self.name, LAYER_MARK: layer_key}


@lru_cache(maxsize=1 << 14)
def least_cycles(kernel: Kernel, problem: Problem, target: Target) -> float:
    """Cycles of the best tile by estimate."""
    return kernel.cycles(problem, kernel.tiles(problem, target)[0], target)


def dtype_named(name: str) -> np.dtype:
    """NumPy's dtype of that name; bfloat16 is ml_dtypes'."""
    return np.dtype(getattr(ml_dtypes, name, name))


def narrow_dtype(weight: te.Tensor, x: te.Tensor) -> str | None:
    """The dtype of weights that are stored narrower than the data `x`; None where it is the data's."""
    return None if weight.dtype == x.dtype else weight.dtype


def widened(weight: relax.Expr, dtype: str) -> relax.Expr:
    """A weight in the dtype of what it multiplies: in a kernel an instruction a vector, or two, behind its load."""
    return weight if weight.dtype == dtype else weight.astype(dtype)


def fusable_call(
    builder: relax.BlockBuilder, name: str, compute: Callable, *tensors: relax.Expr, **options: Any
) -> relax.Call:
    """A call of the TE `compute` on Relax tensors as a function of that name, into whose epilogue elementwise operators
    that follow may go.
    """
    compute = partial(compute, **options)  # call_te itself takes options of few types
    return builder.call_te(compute, *tensors, primfunc_name_hint=name, primfunc_attrs=FUSABLE)


def kernel_name(func: PrimFunc) -> str | None:
    """The name of the kernel or transformation that a function holds; None for any other."""
    name = (func.attrs or {}).get(KERNEL_MARK)
    return None if name is None else str(name)


def reason(layer: Layer, n: int) -> str:
    """Why a layer runs in blocks of n, from its zeros."""
    zeros = layer.zeros
    if zeros is None:
        why = "dense: " + ("zeros ignored as asked" if layer.dense else "no 1xN blocks of zeros")
        if layer.out_channels % min(pattern.SIZES):
            why += f" that divide its {layer.out_channels} output channels"
        return why + (f"; blocks outside the {layer.groups} groups are skipped" if layer.groups > 1 else "")
    most = longest_row(layer.kept[n])
    if most == layer.channels:
        return f"dense: 1x{zeros.n} keeps {zeros.most} of {zeros.total} blocks, to skip the others would cost more"
    why = f"{1 - most / layer.channels:.0%} of the blocks are skipped"
    if n != zeros.n:
        why += f"; 1x{zeros.n} zeros run as 1x{n}, estimated faster"
    if not zeros.uniform:
        why += f"; not uniform ({zeros.least} to {zeros.most} kept a group), shorter rows filled with zeros"
    return why


def normal(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers; integers of eight bits' range, or the type's if that is less."""
    if np.issubdtype(dtype, np.integer):
        low, high = max(np.iinfo(dtype).min, -128), min(np.iinfo(dtype).max, 127)
        return rng.integers(low, high, shape, dtype, endpoint=True)
    return rng.standard_normal(shape, dtype="float32").astype(dtype)


def distinct_rows(rng: np.random.Generator, shape: tuple[int, ...], below: int) -> np.ndarray:
    """`[rows, count]` int32: distinct sorted numbers below a limit in each row."""
    rows, count = shape
    return np.stack([np.sort(rng.permutation(below)[:count]) for _ in range(rows)]).astype("int32")


def with_channels(
    arrays: list[np.ndarray], infos: Sequence[tuple[str, tuple[int, ...]]], channels: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Arguments of a kernel whose block rows are filled up: an int32 matrix, whose shape is in `infos`, is of sorted
    channels a row, which may repeat.
    """
    return [
        np.sort(rng.integers(0, channels, shape, "int32")) if dtype == "int32" and len(shape) == 2 else array
        for array, (dtype, shape) in zip(arrays, infos, strict=True)
    ]
