"""Chooses a kernel for each convolution and linear layer, and rewrites the layer into it with its weight packed.

Which block size a layer runs with is a question of cost, not only of the zeros it was trained with: 1x4 zeros can be run as wider blocks
(a union of four) or 1x64 as four narrower ones. Every size is packed in thought, its best tile's cycles are estimated, and the cheapest is taken.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log, log2, prod

import numpy as np
from tvm import IRModule, relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_sched import pattern
from tvm_sched.explain import LayerChoice
from tvm_sched.kernels import depthwise_conv2d, direct_conv2d
from tvm_sched.kernels.register_tile import Work, candidates, cycles
from tvm_sched.passes.constants import as_array, constant, is_op, shape_of
from tvm_sched.targets import Target


@dataclass(frozen=True)
class Selection:
    """The rewritten module; for each layer, in the order of the network, what was chosen and the constant that holds its packed weight."""

    mod: IRModule
    choices: list[LayerChoice]
    weights: list  # a Relax constant; None for a layer of zeros alone


def select_kernels(mod: IRModule, target: Target, layers: list[tuple[str, int]], ignore_zeros: bool = False) -> Selection:
    """Rewrites 'main', whose convolutions are NHWC. `layers`: names of layers with the sizes of their weights, in order. With `ignore_zeros`
    every layer is dense: the baseline.
    """
    selector = _Selector(mod, target, layers, ignore_zeros)
    main = mod.get_global_var("main")
    selector.builder_.update_func(main, selector.visit_expr(mod[main]))
    return Selection(selector.builder_.finalize(), selector.choices, selector.weights)


@dataclass(frozen=True)
class Blocks:
    """The block size `n` a layer runs with, which blocks it keeps (bool `[G, C]`), the size its zeros were made with, and why."""

    n: int
    kept: np.ndarray
    found_n: int | None
    why: str


def choose_blocks(weight: np.ndarray, groups: int, work_of, target: Target, ignore_zeros: bool) -> Blocks:
    """The cheapest block size for a weight `[O, C / groups, kh, kw]`; `work_of(groups, kept, n)` gives the Work of a packing."""
    used = pattern.occupancy(weight, groups, ignore_zeros)
    found = pattern.find(pattern.occupancy(weight, ignore_zeros=ignore_zeros))
    packings = {n: pattern.kept_blocks(used, n) for n in pattern.SIZES}
    most = {n: int(kept.sum(axis=1).max()) for n, kept in packings.items()}
    estimates = {n: estimate(work_of(len(kept), max(1, most[n]), n), target) for n, kept in packings.items()}

    def preference(n):
        """Estimates within 4 % count as equal; among equals one vector a block is simplest."""
        return round(log(estimates[n]) / 0.04), abs(log2(n / target.lanes))

    n = min(packings, key=preference)
    if found is None:
        why = "dense: " + ("zeros ignored as asked" if ignore_zeros else "no 1xN blocks of zeros")
        return Blocks(n, packings[n], None, why + (f"; blocks outside the {groups} groups are skipped" if groups > 1 else ""))
    if most[n] == used.shape[1]:
        return Blocks(n, packings[n], found.n, f"dense: skipping blocks ({found.most} of {found.total} kept) would cost more")
    why = f"{1 - most[n] / used.shape[1]:.0%} of the blocks are skipped"
    if n != found.n:
        why += f"; 1x{found.n} zeros run as 1x{n}, estimated faster"
    if not found.uniform:
        why += f"; not uniform ({found.least} to {found.most} kept a group), shorter rows filled with zeros"
    return Blocks(n, packings[n], found.n, why)


@lru_cache(maxsize=4096)
def estimate(work: Work, target: Target) -> float:
    """Cycles of the best tile."""
    return cycles(work, candidates(work, target, most=1)[0], target)


@mutator
class _Selector(PyExprMutator):
    def __init__(self, mod, target, layers, ignore_zeros):
        super().__init__(mod)
        self.target, self.ignore_zeros = target, ignore_zeros
        self.layers = list(layers)
        self.choices, self.weights = [], []

    def visit_call_(self, call):
        call = super().visit_call_(call)
        weight = as_array(call.args[1]) if len(call.args) == 2 else None
        if weight is None:
            return call
        if is_op(call, "relax.nn.conv2d") and call.attrs.data_layout == "NHWC":
            return self.convolution(call, weight.transpose(0, 3, 1, 2))
        if is_op(call, "relax.matmul") and (matrix := one_matrix(weight)) is not None and shape_of(call)[:-1] == shape_of(call.args[0])[:-1]:
            return self.linear(call, matrix.T[:, :, None, None])
        return call

    def convolution(self, call, weight):
        """An NHWC conv2d of weight `[O, C / groups, kh, kw]`."""
        x, groups = call.args[0], int(call.attrs.groups)
        stride, padding, dilation = (tuple(map(int, call.attrs[key])) for key in ("strides", "padding", "dilation"))
        (batch, height, width, channels), (_, out_height, out_width, out_channels) = shape_of(x), shape_of(call)
        kernel = weight.shape[2:]
        shape = f"{channels}x{height}x{width} -> {out_channels}x{out_height}x{out_width}"
        macs = batch * out_height * out_width * weight.size
        op = f"conv2d {kernel[0]}x{kernel[1]}" + (f" stride {stride[0]}" if max(stride) > 1 else "")
        op += (f" dilation {dilation[0]}" if max(dilation) > 1 else "") + (f" groups {groups}" if groups > 1 else "")
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        if groups == channels == out_channels:
            why = "depthwise: a block has one input channel, nothing to skip"
            packed = constant(weight[:, 0].transpose(1, 2, 0))
            self.record(weight.size, packed, op, shape, None, 1, 1, macs, depthwise_conv2d.NAME, why)
            return self.builder_.call_te(depthwise_conv2d.compute, x, packed, primfunc_name_hint=depthwise_conv2d.NAME, **geometry)

        def work_of(block_groups, kept, n):
            return Work(
                batch, out_height, out_width, channels, block_groups, kept, n, kernel, stride, any(padding), indexed=kept < channels
            )

        return self.blocks(call, weight, groups, work_of, (op, shape, macs), direct_conv2d.conv2d, geometry)

    def linear(self, call, weight):
        """`x @ matrix`, weight `[O, I, 1, 1]`."""
        *rows, channels = shape_of(call.args[0])

        def work_of(block_groups, kept, n):
            return Work(1, 1, prod(rows), channels, block_groups, kept, n, indexed=kept < channels)

        shape = f"{'x'.join(map(str, rows))}x{channels} -> {len(weight)}"
        return self.blocks(call, weight, 1, work_of, ("linear", shape, prod(rows) * weight.size), direct_conv2d.linear, {})

    def blocks(self, call, weight, groups, work_of, description, compute, geometry):
        """The layer as 1xN blocks, dense or sparse."""
        op, shape, macs = description
        channels = weight.shape[1] * groups
        if not weight.any() and not self.ignore_zeros:
            self.record(weight.size, None, op, shape, None, 0, channels, macs, "zeros", "no block is kept")
            return relax.op.zeros(call.ty.shape, call.ty.dtype)
        blocks = choose_blocks(weight, groups, work_of, self.target, self.ignore_zeros)
        data, indices = pattern.pack(pattern.ungroup(weight, groups), blocks.kept, blocks.n)
        packed = [constant(each) for each in (data, indices) if each is not None]
        kernel = f"{direct_conv2d.NAME} 1x{blocks.n}"
        self.record(weight.size, packed[0], op, shape, blocks.found_n, data.shape[1], channels, macs, kernel, blocks.why)
        return self.builder_.call_te(
            compute, call.args[0], *packed, out_channels=len(weight), primfunc_name_hint=direct_conv2d.NAME, **geometry
        )

    def record(self, size, packed, *choice):
        """Notes the choice (the fields of a LayerChoice after the name) under the name of the next layer whose weight has that size."""
        at = next((i for i, (_, numbers) in enumerate(self.layers) if numbers == size), None)
        name = f"layer {len(self.choices)}" if at is None else self.layers[at][0]
        self.layers = self.layers if at is None else self.layers[at + 1:]
        self.weights.append(packed)
        self.choices.append(LayerChoice(name, *choice))


def one_matrix(weight: np.ndarray) -> np.ndarray | None:
    """The matrix that a stack of matrices `[..., I, O]` repeats (PyTorch makes one to multiply a transposed input); None if they differ."""
    if weight.ndim < 2:
        return None
    first, *others = weight.reshape(-1, *weight.shape[-2:])
    return first if all(np.array_equal(first, other) for other in others) else None
