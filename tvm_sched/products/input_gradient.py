"""dX: each vector of it in turn gets what a register tile of the output's gradient adds, block by block and tap by tap.

    (dy [B, O, H', W'], weight [O, C / groups, kh, kw], indices [G, K] int32, K, dx [B, C, H, W]) -> dx is written

The pattern turned round is not uniform: inputs are kept by unequally many block rows. So threads share images.
"""

from tvm import IRModule, tirx
from tvm.ir import Expr

from tvm_sched.products import planes
from tvm_sched.products.emit import clear, kernel_taps, loop, memory, module, shared
from tvm_sched.products.forward import channel, of_pixels, operands
from tvm_sched.products.problem import Problem
from tvm_sched.products.tiles import Tile
from tvm_sched.targets import Target

NAME = "input_gradient"
NEAR = 4  # register tiles of positions that are gone through for each tap, while its weights are in the first cache


def build(problem: Problem, tile: Tile, target: Target, threads: int) -> IRModule:
    """The function, which `threads` threads share."""
    p = problem
    vectors, whole, direct, images = of_pixels(p, tile, target)
    lanes = vectors.lanes
    of_x = planes.as_it_is(p, p.channels) if direct else planes.of_input_gradient(p, images, whole)
    first_rows = [p.rows_within(down)[0] for down, _ in p.phases]
    of_y = planes.as_it_is(p, p.outputs)
    if not direct:
        of_y = planes.of_output(p, images, of_x.plane + max(first_rows) * p.pitch, p.margin)
    steps = of_x.plane // whole
    near = max(count for count in range(1, NEAR + 1) if steps % count == 0)

    def body() -> None:
        dy, packed, indices, kept, dx = operands(p, "dy", "dx")
        with shared(p.batch // images) as piece:
            first = piece * images
            given, begin = dy, first * p.outputs * of_x.plane
            sums, start = dx, first * p.channels * of_x.plane
            if not direct:
                given, begin = memory("given", of_y.size, p.dtype), 0
                sums, start = memory("sums", of_x.size, p.dtype), 0
                planes.pack_output(of_y, first, dy, given, vectors)
            clear(vectors, sums, start, of_x.size)
            with loop(steps // near) as stretch, loop(p.block_rows) as row:
                for down, right in kernel_taps(p):
                    phase, shift = p.tap(down, right)
                    tap = down * p.kernel[1] + right
                    above = above_phase(p, down, first_rows)
                    with loop(near) as step, loop(p.n // tile.outputs) as part:
                        position = (stretch * near + step) * whole
                        registers = memory("registers", tile.outputs * whole, p.dtype, "local")
                        places = [
                            [(output * tile.vectors + v) * lanes for v in range(tile.vectors)]
                            for output in range(tile.outputs)
                        ]
                        for output, own in enumerate(places):
                            line = begin + (row * p.n + part * tile.outputs + output) * of_y.line
                            for v, place in enumerate(own):
                                source = line + (position + (above + of_y.front - shift + v * lanes))
                                vectors.store(registers, place, vectors.load(given, source))
                        with loop(kept) as k:
                            at = start + channel(p, indices, kept, row, k) * of_x.line
                            at = at + (position + phase * of_x.plane)
                            totals = [vectors.load(sums, at + v * lanes) for v in range(tile.vectors)]
                            for output, own in enumerate(places):
                                at_weight = (row * kept + k) * p.taps + tap
                                scalar = packed[at_weight * p.n + part * tile.outputs + output]
                                for v, place in enumerate(own):
                                    term = vectors.load(registers, place) * vectors.spread(scalar)
                                    totals[v] = totals[v] + term
                            for v, total in enumerate(totals):
                                vectors.store(sums, at + v * lanes, total)
            if not direct:
                planes.unpack_input(of_x, first, dx, sums, vectors)

    return module(NAME, body)


def above_phase(problem: Problem, row: Expr | int, first_rows: list[int]) -> Expr | int:
    """Positions of the rows of padding above the plane that a kernel's row adds to."""
    heights = [first_rows[problem.tap(each, 0)[0]] * problem.pitch for each in range(problem.kernel[0])]
    if isinstance(row, int):
        return heights[row]
    chosen: Expr | int = heights[-1]
    for each in reversed(range(problem.kernel[0] - 1)):
        if heights[each] != heights[-1] or not isinstance(chosen, int):
            chosen = tirx.Select(row == each, tirx.const(heights[each], "int32"), chosen)
    return chosen
