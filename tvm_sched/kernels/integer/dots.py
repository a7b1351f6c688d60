"""Dot products of short vectors of small numbers, as CPUs have them, and as tensor intrinsics.

    sums[lane] += sum_j x[lane, j] * w[j]        j < group

`x` holds a group of channels for each of a vector's pixels, side by side; `w`, the weights of one output, goes to all
lanes. Or the other way round, where there are few pixels: `w` holds the weights of a vector's outputs, and `x`, one
pixel's, goes to all lanes. What differs from one CPU to another is the length of a group and what the numbers are
widened to before:

    vnni    vpdpbusd             4   uint8 x int8        AVX-512 VNNI, and AVX-VNNI with half as many lanes
    bytes   vpmaddubsw, vpmaddwd, vpaddd    4   uint8 x int8    AVX2, weights of at most 64: two products fit 16 bits
    madd    vpmaddwd, vpaddd     2   int16 x int16       AVX2, any weights: exact, where such sums of two saturate
    sdot    sdot                 4   int8 x int8         ARMv8.2 dotprod
    mlal    smlal                1   int16 x int16       NEON: no intrinsic, LLVM finds it
    bfloat  vdpbf16ps            2   bfloat16, as bits   AVX512-BF16: sums of float32

A schedule leaves a call of a name, `CALL`, which the phase `lower_dots` turns into the instruction, or into plain
arithmetic where the code is for another CPU than the schedule: so that a check runs anywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.s_tir import Schedule, TensorIntrin
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import target_has_features
from tvm.tirx import Buffer, PrimFunc, Shuffle

from tvm_sched.kernels.integer.bfloats import BITS, FEATURE, bits_of, of_lanes, to_float
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.rewrites.arguments import strided
from tvm_sched.targets import Target

PREFIX, OF_OUTPUTS = "dot_", "dot_of_outputs_"  # of the intrinsics' names
NAME = re.compile(f"({OF_OUTPUTS}|{PREFIX})" + r"([a-z_]+?)(?:_(\d+)(?:x(\d+))?)?")
SUMS_AXES = 4  # of `planar_conv2d`'s: images, outputs, tiles, positions
CALL = "subp.dot."  # with the name of a dot product: an external function that nothing links


@dataclass(frozen=True)
class Dot:
    """A dot product: so many lanes of sums, groups of so many channels."""

    name: str
    lanes: int
    group: int
    activation: str  # dtype of the network's quantised activations
    x: str  # dtype of x, widened from the activation
    w: str  # dtype of the weights as they are stored
    intrinsic: str = ""  # LLVM's name; empty where its own patterns find the instruction
    features: tuple[str, ...] = ()  # LLVM's names of what a CPU must have for it, any of them
    adds: bool = True  # whether the instruction adds to the sums itself
    sums: str = "int32"
    outputs: int = 1  # whose weights come in one vector, of which an instruction takes a lane
    pairs: str = ""  # LLVM's name of a second multiplication, by ones, that adds up pairs of what the first one gives
    latency: int | None = None  # cycles until the next one may add to its sums; None: a multiply-add's

    @property
    def constants(self) -> int:
        """Registers that hold what a product takes besides its factors: ones, by which pairs are added up."""
        return 1 if self.pairs else 0

    @property
    def multiplications(self) -> int:
        """Instructions that multiply."""
        return 2 if self.pairs else 1

    @property
    def stored(self) -> str:
        """dtype of weights that lie side by side for a vector of outputs."""
        return BITS if self.w == BITS else "int8"

    @property
    def number_bytes(self) -> int:
        """Bytes of an activation."""
        return np.dtype(self.activation).itemsize

    def weights(self, numbers: np.ndarray) -> np.ndarray:
        """Weights, given as ordinary numbers, as they are stored to be multiplied."""
        return bits_of(numbers) if self.w == BITS else numbers.astype(self.w)

    def wide(self, number: Expr) -> Expr:
        """A number, or a vector of them, as it is multiplied."""
        return to_float(number) if self.x == BITS else number.astype(of_lanes(number, self.sums))


VNNI = Dot("vnni", 16, 4, "uint8", "uint8", "int8", "llvm.x86.avx512.vpdpbusd.512", ("avx512vnni",))
HALF_VNNI = Dot("half_vnni", 8, 4, "uint8", "uint8", "int8", "llvm.x86.avx512.vpdpbusd.256", ("avxvnni", "avx512vnni"))
WIDE_MADD = Dot(
    "wide_madd", 16, 2, "uint8", "int16", "int16", "llvm.x86.avx512.pmaddw.d.512", ("avx512bw",), adds=False, latency=1
)
MADD = Dot("madd", 8, 2, "uint8", "int16", "int16", "llvm.x86.avx2.pmadd.wd", ("avx2",), adds=False, latency=1)
WIDE_BYTES, BYTES = (
    replace(wide, name=name, group=4, x="uint8", w="int8", intrinsic=intrinsic, pairs=wide.intrinsic)
    for wide, name, intrinsic in (
        (WIDE_MADD, "wide_bytes", "llvm.x86.avx512.pmaddubs.w.512"),
        (MADD, "bytes", "llvm.x86.avx2.pmadd.ub.sw"),
    )
)
SDOT = Dot("sdot", 4, 4, "int8", "int8", "int8", "llvm.aarch64.neon.sdot", ("dotprod",), outputs=4, latency=2)
MLAL = Dot("mlal", 4, 1, "int8", "int16", "int16")
BFLOAT = Dot("bfloat", 16, 2, BITS, BITS, BITS, "subp_dot_of_bfloats", (FEATURE,), sums="float32")
DOTS = {dot.name: dot for dot in (VNNI, HALF_VNNI, WIDE_MADD, MADD, WIDE_BYTES, BYTES, SDOT, MLAL, BFLOAT)}
OF_SMALL = {WIDE_MADD: WIDE_BYTES, MADD: BYTES}  # what takes the place of the one where weights are small
SMALL = 64  # 2 * 64 * 255 fits int16


@cache
def dot_of(target: Target) -> Dot:
    """The dot product of 8-bit integers that the target has, in vectors of its length."""
    choices = (VNNI, WIDE_MADD) if target.lanes == VNNI.lanes else (HALF_VNNI, MADD)
    if target.arch != "x86_64":
        choices = (SDOT, MLAL)
    first, last = choices
    return first if has(first, target.tvm()) else last


def dot_for(layer: Layer, target: Target) -> Dot:
    """The dot product of a layer's numbers: of bytes also where the CPU adds pairs in 16 bits, if its weights are such
    that these do not saturate.
    """
    if layer.dtype == BITS:
        return BFLOAT
    dot = dot_of(target)
    if layer.dtype != dot.activation or dot not in OF_SMALL:
        return dot
    small = layer.weight.max(initial=0) <= SMALL and layer.weight.min(initial=0) >= -SMALL
    return OF_SMALL[dot] if small else dot


def weight_bits(target: Target) -> int:
    """Bits of weights by which the target computes fastest: 7 are small enough for `OF_SMALL`."""
    return 7 if dot_of(target) in OF_SMALL else 8


def has(dot: Dot, target) -> bool:
    """Whether a TVM target has one of the instructions."""
    return any(target_has_features(feature, target) for feature in dot.features)


def arithmetic_cycles(dot: Dot, count: float, target: Target, fma_cycles: float | None = None) -> float:
    """Cycles of so many dot products of a vector, by their instructions alone; `fma_cycles`: those of a multiply-add,
    where they are known.
    """
    each = dot.multiplications * (fma_cycles or 1 / target.fma_per_cycle)
    return count * each * (1.0 if dot.adds else target.costs.added_dot_factor)


def in_groups(
    data: np.ndarray, indices: np.ndarray | None, groups: int, group: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """(blocks [G, K, ...] as [G, groups, group, ...], filled up by zeros; their indices, if there are any, as long)."""
    filled = groups * group - data.shape[1]
    data = np.pad(data, [(0, 0), (0, filled), *[(0, 0)] * (data.ndim - 2)])
    indices_too = [] if indices is None else [np.pad(indices, [(0, 0), (0, filled)], mode="edge")]
    return data.reshape(len(data), groups, group, *data.shape[2:]), indices_too


@dataclass(frozen=True)
class Summing:
    """The loops of a sum of dot products, those of `sum_up`, and the two over a kernel's rows and columns."""

    outermost: LoopRV
    row: LoopRV
    column: LoopRV
    registers: Sequence[LoopRV]
    lane: LoopRV
    output: LoopRV | None = None


def sum_up(
    sch: Schedule,
    product: SBlockRV,
    outermost: LoopRV,
    registers: Sequence[LoopRV],
    pixel: LoopRV,
    dot: Dot,
    output: LoopRV | None = None,
    of_outputs: bool = False,
) -> None:
    """Takes the zeroing of sums out of the loop `outermost`. Of what is left, the loops over a vector's pixels and a
    group become dot products, and those outside of them are unrolled: one over outputs, which have weights of their
    own, if there is one, then `registers`. `of_outputs`: a vector is of outputs, not of pixels.
    """
    few = None
    if output is not None:
        if int(sch.get(output).extent) % dot.outputs == 0 and dot.outputs > 1:
            output, few = sch.split(output, [None, dot.outputs])
            sch.reorder(output, *registers, few, pixel)
        registers = [output, *registers]
    if dot.group == 1:
        sch.vectorize(pixel)  # LLVM finds the instruction
    zeroing = sch.decompose_reduction(product, outermost)
    *outer, lane = sch.get_loops(zeroing)[-len(registers) - (few is not None) - 1 :]
    for loop in (*registers, *outer):
        sch.unroll(loop)
    if dot.group > 1:
        sch.vectorize(lane)
        axes = len(sch.get(product).writes[0].region) - SUMS_AXES
        name = outputs_intrinsic(dot) if of_outputs else tensor_intrinsic(dot, dot.outputs if few else 1, 1 + axes)
        sch.tensorize(few or pixel, name)


def tensor_intrinsic(dot: Dot, outputs: int = 1, between: int = 1) -> str:
    """The name, for `Schedule.tensorize`, of one vector's dot product with the weights of so many outputs; it is made
    when first asked for.

    `x [lanes * group]` and `w [outputs, group]` in memory, `sums [outputs, 1, lanes]` in registers, with so many axes
    of 1 `between`.
    """
    several = outputs > 1 and between > 1
    name = f"{PREFIX}{dot.name}_{outputs}x{between}" if several else f"{PREFIX}{dot.name}_{outputs}"
    if TensorIntrin.get(name, allow_missing=True) is None:
        both = (
            function(dot, outputs, between, "description", loops),
            function(dot, outputs, between, "implementation", vectors),
        )
        TensorIntrin.register(name, *both)
    return name


def outputs_intrinsic(dot: Dot) -> str:
    """Likewise, that of one pixel's dot products with the weights of a vector's outputs.

    `x [group]` and `w [lanes, group]`, 8-bit ones as int8, in memory, `sums [lanes]` in registers.
    """
    name = f"{OF_OUTPUTS}{dot.name}"
    if TensorIntrin.get(name, allow_missing=True) is None:
        sizes = {"w": (dot.lanes, dot.group), "x": (dot.group,), "sums": (dot.lanes,)}
        both = (
            arguments_of(dot, name, sizes, body, w_dtype=dot.stored)
            for name, body in (("description", loops_of_outputs), ("implementation", vectors_of_outputs))
        )
        TensorIntrin.register(name, *both)
    return name


def make_needed(trace: list) -> None:
    """As `rewrites.transpose.make_needed`."""
    instructions, _ = trace
    for kind, _, attributes, _ in instructions:
        if kind == "Tensorize" and (named := NAME.fullmatch(attributes[0])):
            if named[1] == OF_OUTPUTS:
                outputs_intrinsic(DOTS[named[2]])
            else:
                tensor_intrinsic(DOTS[named[2]], int(named[3]), int(named[4] or 1))


def function(dot: Dot, outputs: int, between: int, name: str, body) -> PrimFunc:
    """A function of w, x and sums for so many outputs of a vector of pixels."""
    few = (outputs, *[1] * between) if outputs > 1 else ()
    sizes = {"w": (*few[:1], dot.group), "x": (dot.lanes * dot.group,), "sums": (*few, dot.lanes)}
    return arguments_of(dot, name, sizes, lambda dot, *buffers: body(dot, outputs, *buffers), w_dtype=dot.w)


def arguments_of(dot: Dot, name: str, sizes: dict[str, tuple], body, w_dtype: str) -> PrimFunc:
    """A function of w, x and sums, parts of larger buffers, whose root block holds what `body` emits."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        w = strided("w", sizes["w"], w_dtype, "global")
        x = strided("x", sizes["x"], dot.x, "global")
        sums = strided("sums", sizes["sums"], dot.sums, "local")
        with T.sblock("root"):
            T.reads(whole(sums), whole(w), whole(x))
            T.writes(whole(sums))
            body(dot, w, x, sums)
    return builder.get()


def whole(buffer: Buffer):
    """All of a buffer, as a region."""
    return buffer[tuple(slice(0, int(extent)) for extent in buffer.shape)]


def loops(dot: Dot, outputs: int, w: Buffer, x: Buffer, sums: Buffer) -> None:
    """The loops that the intrinsic stands for, as `tensorize` looks for them."""
    if outputs == 1:
        with T.grid(dot.lanes, dot.group) as (lane, j), T.sblock("dot"):
            vlane, vj = T.axis.remap("SR", [lane, j])
            product = dot.wide(w[vj]) * dot.wide(x[vlane * dot.group + vj])
            T.buffer_store(sums, sums[vlane] + product, [vlane])
        return
    with T.grid(outputs, dot.lanes, dot.group) as (o, lane, j), T.sblock("dot"):
        vo, vlane, vj = T.axis.remap("SSR", [o, lane, j])
        product = w[vo, vj].astype("int32") * x[vlane * dot.group + vj].astype("int32")
        place = (vo, *[0] * (len(sums.shape) - 2), vlane)
        T.buffer_store(sums, sums[place] + product, place)


def vectors(dot: Dot, outputs: int, w: Buffer, x: Buffer, sums: Buffer) -> None:
    """What `tensorize` puts in their place."""
    pixels = x.vload([0], f"{dot.x}x{dot.lanes * dot.group}")
    first = [0] if outputs == 1 else [0, 0]
    weights = w.vload(first, f"{dot.w}x{outputs * dot.group}")
    for o in range(outputs):
        place = [] if outputs == 1 else [o, *[0] * (len(sums.shape) - 2)]
        before = sums.vload([*place, 0], f"{dot.sums}x{dot.lanes}")
        own = list(range(o * dot.group, (o + 1) * dot.group))
        mine = weights if outputs == 1 else Shuffle([weights], own)
        after = tirx.call_pure_extern(f"{dot.sums}x{dot.lanes}", CALL + dot.name, before, pixels, mine)
        T.buffer_store(sums, after, [*place, T.ramp(T.int32(0), 1, dot.lanes)])


def loops_of_outputs(dot: Dot, w: Buffer, x: Buffer, sums: Buffer) -> None:
    """`loops` of a vector of outputs."""
    with T.grid(dot.lanes, dot.group) as (lane, j), T.sblock("dot"):
        vlane, vj = T.axis.remap("SR", [lane, j])
        product = dot.wide(w[vlane, vj]) * dot.wide(x[vj])
        T.buffer_store(sums, sums[vlane] + product, [vlane])


def vectors_of_outputs(dot: Dot, w: Buffer, x: Buffer, sums: Buffer) -> None:
    """`vectors` of a vector of outputs."""
    numbers = dot.lanes * dot.group
    before, pixel = sums.vload([0], f"{dot.sums}x{dot.lanes}"), x.vload([0], f"{dot.x}x{dot.group}")
    weights = w.vload([0, 0], f"{w.dtype}x{numbers}").astype(f"{dot.w}x{numbers}")
    after = tirx.call_pure_extern(f"{dot.sums}x{dot.lanes}", CALL + dot.name, before, pixel, weights)
    T.buffer_store(sums, after, [T.ramp(T.int32(0), 1, dot.lanes)])


def lowered(call: Call, target) -> Expr:
    """A call of CALL in instructions of a TVM target."""
    name, before, pixels, weights = call.args
    dot = DOTS[name.value.removeprefix(CALL)]
    make = instruction if has(dot, target) else arithmetic
    return make(dot, before, pixels, weights)


def instruction(dot: Dot, before: Expr, pixels: Expr, weights: Expr) -> Expr:
    """int32 x lanes: `before` and the products of pixels with weights, of which the one is a vector and the other one
    group.
    """
    vector = f"{dot.w}x{dot.lanes * dot.group}"

    def spread(numbers: Expr) -> Expr:  # reinterpreted: LLVM knows no signs of vectors
        if int(numbers.ty.dtype.lanes) == dot.group:
            numbers = tirx.Broadcast(tirx.reinterpret("int32", numbers), dot.lanes)
        return tirx.reinterpret(vector, numbers)

    both = spread(pixels), spread(weights)
    if dot.sums == "float32":
        return tirx.call_pure_extern(before.ty.dtype, dot.intrinsic, before, *both)  # see `passes/tir/import_code`
    if dot.adds:
        return tirx.call_llvm_pure_intrin(before.ty.dtype, dot.intrinsic, before, *both)
    if not dot.pairs:
        return before + tirx.call_llvm_pure_intrin(before.ty.dtype, dot.intrinsic, *both)
    sums = tirx.call_llvm_pure_intrin(f"int16x{2 * dot.lanes}", dot.intrinsic, *both)
    ones = tirx.Broadcast(tirx.const(1, "int16"), 2 * dot.lanes)
    return before + tirx.call_llvm_pure_intrin(before.ty.dtype, dot.pairs, sums, ones)


def arithmetic(dot: Dot, before: Expr, pixels: Expr, weights: Expr) -> Expr:
    """The same for any CPU."""

    def element(numbers: Expr, j: int) -> Expr:
        if int(numbers.ty.dtype.lanes) == dot.group:
            return tirx.Broadcast(dot.wide(Shuffle([numbers], [j])), dot.lanes)
        return dot.wide(Shuffle([numbers], list(range(j, dot.lanes * dot.group, dot.group))))

    return sum((element(pixels, j) * element(weights, j) for j in range(dot.group)), before)
