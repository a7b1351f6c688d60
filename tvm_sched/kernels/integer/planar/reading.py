"""What the products of planar convolutions read: planes with their padding, and of them the channels of a dot product
side by side.
"""

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import SBlockRV

from tvm_sched.kernels.integer.dots import Dot
from tvm_sched.kernels.integer.interleave import interleave
from tvm_sched.kernels.integer.planar.planes import Layout, copy_padded, padded_pixel
from tvm_sched.kernels.integer.planar.problem import INTERLEAVED, PLANES, PlanarProblem
from tvm_sched.kernels.integer.rounding import Rounding
from tvm_sched.kernels.ranking import divisors

UNROLLED = 256  # pixels that are interleaved by code without a loop


def operands(
    more: Sequence[te.Tensor], problem: PlanarProblem, rounding: Rounding | None
) -> tuple[te.Tensor | None, te.Tensor | None, Sequence[te.Tensor]]:
    """(indices, residual, what else `rounding` takes) of what a kernel's compute is given behind its weights."""
    indices, more = (more[0], more[1:]) if problem.conv.indexed else (None, more)
    residual, more = (more[0], more[1:]) if rounding and rounding.adds else (None, more)
    return indices, residual, more


def planes_of(x: te.Tensor, layout: Layout, zero_point: int) -> te.Tensor | None:
    """`x [B, C, H, W]` in planes `[B, C, down, rows, columns]`; None where it is read as it is."""
    if not layout.copied:
        return None

    def pixel(b, c, phase, h, w):
        row, column = h * layout.stride[0] + phase - layout.padding[0], w - layout.padding[1]
        return padded_pixel(x, zero_point, (b, c), row, column)

    batch, channels = x.shape[:2]
    return te.compute((batch, channels, layout.phases[0], *layout.plane), pixel, name=PLANES)


def interleaved(
    x: te.Tensor, planes: te.Tensor | None, indices: te.Tensor | None, layout: Layout, dot: Dot, rows: int, groups: int
) -> te.Tensor:
    """`[1, B, rows, tiles, groups, down, right, reach * J]`: of each of so many block rows that keep channels of their
    own, one where there are no `indices`, and each tile; J channels of a pixel side by side, as they are multiplied.
    """
    batch, channels, _, width = (int(extent) for extent in x.shape)
    group, (down, right) = dot.group, layout.phases

    def channel(g, k, j):
        last = k * group + j
        if indices is not None:
            return indices[g, last]
        return tirx.min(last, channels - 1) if channels % group else last

    def grouped(_, b, g, t, k, phase_h, phase_w, m):
        at, taken = m // group, channel(g, k, m % group)
        if planes is None:  # a tile ends where its outputs do: what is behind them may be another's, or nobody's
            p = t * layout.step + at
            number = tirx.if_then_else(at < layout.pixels, x[b, taken, p // width, p % width], tirx.const(0, x.dtype))
            return number.astype(dot.x)
        at = (t * layout.step + at) * layout.stride[1] + phase_w
        return planes(b, taken, phase_h, at // layout.plane[1], at % layout.plane[1]).astype(dot.x)

    # The first axis is for `annotate_buffer_access`, which wants as many axes of a buffer as of the block that reads
    # it.
    shape = (1, batch, rows if indices is not None else 1, layout.tiles, groups, down, right, layout.reach * group)
    return te.compute(shape, grouped, name=INTERLEAVED)


def schedule_reading(sch: Schedule, together: SBlockRV, planes: SBlockRV | None, problem: PlanarProblem) -> None:
    """Interleaves by vectors, and copies the planes, which threads share."""
    layout = problem.layout
    _, m, _ = sch.split(sch.get_loops(together)[-1], [None, piece(layout.reach), problem.dot.group])
    if layout.copied:
        interleave(sch, m, layout.stride[1])
    else:
        interleave(sch, m, needed=layout.pixels)
    if planes is not None:
        *outer, column = sch.get_loops(planes)
        copy_padded(sch, column, layout.padding[1], layout.image[1])
        sch.parallel(sch.fuse(*outer[:2]))


def piece(pixels: int) -> int:
    """Of a run of pixels, a multiple of 16, what is interleaved without a loop."""
    return max(16 * count for count in divisors(pixels // 16, UNROLLED // 16))


def points(*places: Any) -> tuple:
    """A region of single elements."""
    return tuple((place, place + 1) for place in places)
