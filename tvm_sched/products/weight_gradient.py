"""dW of the kept blocks: sums over positions, a vector of partial sums for each weight of a register tile.

    (x [B, C, H, W], dy [B, O, H', W'], indices [G, K] int32, K, dw [O, C / groups, kh, kw]) -> dw is written, zero in
    the pruned blocks

Each thread sums over its own images; what the threads have is added in their order at the end.
"""

from itertools import chain

from tvm import IRModule, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tvm_sched.products import planes
from tvm_sched.products.emit import Vectors, argument, clear, kernel_taps, loop, memory, module, number, shared
from tvm_sched.products.forward import channel
from tvm_sched.products.problem import Problem
from tvm_sched.products.tiles import Tile, in_place, lanes_of, shares
from tvm_sched.targets import Target

NAME = "weight_gradient"


def build(problem: Problem, tile: Tile, target: Target, threads: int) -> IRModule:
    """The function, which `threads` threads share."""
    p, lanes = problem, lanes_of(problem, target)
    vectors = Vectors(lanes, p.dtype)
    direct = in_place(p, lanes)
    parts = shares(p, threads)
    run = planes.positions(p, tile.images, lanes * tile.vectors)
    if direct:
        run = p.image[0] * p.image[1]
    of_x = planes.of_input(p, tile.images, lanes, run + p.margin)
    of_y = planes.of_output(p, tile.images, run)
    x_line, x_image, y_line, y_image = of_x.line, of_x.image, of_y.line, of_y.image
    separate = of_x.separate
    if direct:
        x_line, y_line, separate = run, run, tile.images
        x_image, y_image = p.channels * run, p.outputs * run
    size = p.outputs * (p.inputs + tile.blocks) * p.taps
    chunks = run // lanes // tile.vectors

    def body() -> None:
        x = argument("x", p.dtype)
        dy = argument("dy", p.dtype)
        indices = argument("indices", "int32")
        kept = number("kept")
        dw = argument("dw", p.dtype)
        totals = memory("totals", parts * size, p.dtype)  # [parts, G, K up to whole tiles, taps, n]
        tiles = (kept + (tile.blocks - 1)) // tile.blocks
        with shared(parts) as part:
            pixels = x if direct else memory("pixels", of_x.size, p.dtype)
            given = dy if direct else memory("given", of_y.size, p.dtype)
            with loop(p.block_rows * tiles * tile.blocks * p.taps) as i:
                clear(vectors, totals, part * size + i * p.n, p.n)
            with loop(p.batch // parts // tile.images) as piece:
                first = part * (p.batch // parts) + piece * tile.images
                begin, start = first * p.channels * run, first * p.outputs * run
                if not direct:
                    begin = start = 0
                    planes.pack_input(of_x, first, x, pixels, vectors)
                    planes.pack_output(of_y, first, dy, given, vectors)
                with (
                    loop(p.block_rows) as row,
                    loop(chunks) as chunk,
                    loop(p.n // tile.outputs) as few,
                    loop(tiles) as block,
                ):
                    channels = [
                        channel(p, indices, kept, row, tirx.min(block * tile.blocks + b, kept - 1))
                        for b in range(tile.blocks)
                    ]
                    for down, right in kernel_taps(p, tile.taps):
                        taps = [p.tap(down, right + q) for q in range(tile.taps)]
                        tap = down * p.kernel[1] + right
                        registers = memory(
                            "registers", tile.blocks * tile.taps * tile.outputs * lanes, p.dtype, "local"
                        )
                        places = [
                            [((b * tile.taps + q) * tile.outputs + o) * lanes for o in range(tile.outputs)]
                            for b in range(tile.blocks)
                            for q in range(tile.taps)
                        ]
                        for place in chain(*places):
                            vectors.store(registers, place, vectors.zero)
                        with loop(separate) as image, loop(run // lanes // chunks) as step:
                            position = (chunk * (run // lanes // chunks) + step) * lanes
                            line = start + image * y_image + (row * p.n + few * tile.outputs) * y_line
                            gradients = [
                                vectors.load(given, line + output * y_line + position) for output in range(tile.outputs)
                            ]
                            for place_of, own in enumerate(places):
                                b, q = divmod(place_of, tile.taps)
                                phase, shift = taps[q]
                                source = begin + image * x_image + channels[b] * x_line + position
                                pixel = vectors.load(pixels, source + (phase * of_x.plane + shift))
                                for gradient, place in zip(gradients, own, strict=True):
                                    vectors.store(registers, place, vectors.load(registers, place) + pixel * gradient)
                        for place_of, own in enumerate(places):
                            b, q = divmod(place_of, tile.taps)
                            at = ((row * tiles + block) * tile.blocks + b) * p.taps + tap + q
                            at = part * size + at * p.n + few * tile.outputs
                            add_totals(vectors, totals, at, [vectors.load(registers, place) for place in own])
        with shared(p.block_rows) as row:
            clear(vectors, dw, row * (p.n * p.inputs * p.taps), p.n * p.inputs * p.taps)
            with loop(kept) as k, loop(p.n) as lane, loop(p.taps) as t:
                at = ((row * tiles * tile.blocks + k) * p.taps + t) * p.n + lane
                total = totals[at]
                for part in range(1, parts):
                    total = total + totals[part * size + at]
                at = ((row * p.n + lane) * p.inputs + indices[row * kept + k]) * p.taps + t
                T.buffer_store(dw, total, [at])

    return module(NAME, body)


def add_totals(vectors: Vectors, totals: Buffer, at: Expr, sums: list[Expr]) -> None:
    """Adds the lanes of each vector to one of the numbers that follow each other from `at` on."""
    few = len(sums)
    if few & (few - 1) or few > vectors.lanes or few == 1:
        for i, each in enumerate(sums):
            T.buffer_store(totals, totals[at + i] + vectors.totals([each]), [at + i])
        return
    few_lanes = Vectors(few, vectors.dtype)
    few_lanes.store(totals, at, few_lanes.load(totals, at) + vectors.totals(sums))
