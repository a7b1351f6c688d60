"""Y: sums of a register tile of outputs and positions, over the kept blocks and the taps.

(x [B, C, H, W], weight [O, C / groups, kh, kw], indices [G, K] int32, K, y [B, O, H', W']) -> y is written
"""

from tvm import IRModule
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tvm_sched.products import planes
from tvm_sched.products.emit import Vectors, argument, kernel_taps, loop, memory, module, number, shared
from tvm_sched.products.planes import Planes
from tvm_sched.products.problem import Problem
from tvm_sched.products.tiles import Tile, in_place, lanes_of
from tvm_sched.targets import Target

NAME = "forward"


def build(problem: Problem, tile: Tile, target: Target, threads: int) -> IRModule:
    """The function, which `threads` threads share."""
    p = problem
    vectors, whole, direct, images = of_pixels(p, tile, target)
    lanes = vectors.lanes
    run = planes.positions(p, images, whole)
    of_x = planes.as_it_is(p, p.channels) if direct else planes.of_input(p, images, whole, run + p.margin)
    of_y = Planes(p, images, p.n, 1, run)

    def body() -> None:
        x, packed, indices, kept, y = operands(p, "x", "y")
        with shared(p.batch // images) as piece:
            first = piece * images
            pixels, begin = x, first * p.channels * of_x.plane
            if not direct:
                pixels, begin = memory("pixels", of_x.size, p.dtype), 0
                planes.pack_input(of_x, first, x, pixels, vectors)
            sums = None if direct else memory("sums", of_y.size, p.dtype)
            with loop(p.block_rows) as row:
                with loop(of_x.separate) as image, loop(run // whole) as step, loop(p.n // tile.outputs) as part:
                    at = begin + image * of_x.image + step * whole
                    registers = memory("registers", tile.outputs * whole, p.dtype, "local")
                    places = [place * lanes for place in range(tile.outputs * tile.vectors)]
                    for place in places:
                        vectors.store(registers, place, vectors.zero)
                    with loop(kept) as k:
                        line = at + channel(p, indices, kept, row, k) * of_x.line
                        for down, right in kernel_taps(p):
                            phase, shift = p.tap(down, right)
                            source = line + (phase * of_x.plane + shift)
                            tap = (row * kept + k) * p.taps + down * p.kernel[1] + right
                            for output in range(tile.outputs):
                                scalar = packed[tap * p.n + part * tile.outputs + output]
                                for v in range(tile.vectors):
                                    place = places[output * tile.vectors + v]
                                    term = vectors.load(pixels, source + v * lanes) * vectors.spread(scalar)
                                    vectors.store(registers, place, vectors.load(registers, place) + term)
                    for output in range(tile.outputs):
                        lane = part * tile.outputs + output
                        into, start = sums, image * of_y.image + lane * of_y.line
                        if direct:
                            into, start = y, (first * p.outputs + row * p.n + lane) * run
                        for v in range(tile.vectors):
                            place = places[output * tile.vectors + v]
                            vectors.store(into, start + step * whole + v * lanes, vectors.load(registers, place))
                if not direct:
                    planes.unpack_rows(of_y, first, row, y, sums, vectors)

    return module(NAME, body)


def of_pixels(problem: Problem, tile: Tile, target: Target) -> tuple[Vectors, int, bool, int]:
    """Of a product whose registers hold pixels: (vectors, positions of a register tile, whether PyTorch's memory serves
    as it is, images of a piece of work).
    """
    vectors = Vectors(lanes_of(problem, target), problem.dtype)
    whole = vectors.lanes * tile.vectors
    direct = in_place(problem, whole)
    return vectors, whole, direct, 1 if direct else tile.images


def operands(problem: Problem, given: str, result: str) -> tuple[Buffer, Buffer, Buffer, Expr, Buffer]:
    """(what is given, the kept blocks [G, K, taps, n], indices, K, the result): arguments of such a product."""
    source, weight = argument(given, problem.dtype), argument("weight", problem.dtype)
    indices, kept = argument("indices", "int32"), number("kept")
    into = argument(result, problem.dtype)
    return source, pack_weight(problem, weight, indices, kept), indices, kept, into


def channel(problem: Problem, indices: Buffer, kept: Expr, row: Expr, k: Expr) -> Expr:
    """Of the whole input: the k-th that a block row keeps."""
    index = indices[row * kept + k]
    if problem.groups == 1:
        return index
    return index + row // (problem.block_rows // problem.groups) * problem.inputs


def pack_weight(problem: Problem, weight: Buffer, indices: Buffer, kept: Expr) -> Buffer:
    """The kept blocks as [G, K, taps, n]."""
    p = problem
    packed = memory("packed", p.outputs * p.inputs * p.taps, p.dtype)
    with shared(p.block_rows) as row, loop(kept) as k, loop(p.n) as lane, loop(p.taps) as t:
        source = ((row * p.n + lane) * p.inputs + indices[row * kept + k]) * p.taps + t
        T.buffer_store(packed, weight[source], [((row * kept + k) * p.taps + t) * p.n + lane])
    return packed
