"""Images into planes and back (problem.py): `count` images side by side in one piece of memory.

Of `pointwise` problems the images' positions follow each other without a gap, so that vectors run across them; else
each image has planes of its own.
"""

from dataclasses import dataclass
from math import ceil, prod

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tvm_sched.products.emit import Vectors, clear, copy_row, loop, turn
from tvm_sched.products.problem import BYTES, Problem


@dataclass(frozen=True)
class Planes:
    """Where the numbers of `count` images lie.

    lines:  of an image, a line being the planes of one channel: channels of the input, or the output's
    phases: planes of a line
    plane:  positions of a plane, in all of them a multiple of what is loaded and stored at once
    front:  positions before the first of a line: zeros
    inner:  a plane's rows begin and end with the image; else with its padding
    dense:  lines follow each other without a gap: PyTorch's own memory
    """

    problem: Problem
    count: int
    lines: int
    phases: int
    plane: int
    front: int = 0
    inner: bool = False
    dense: bool = False

    @property
    def line(self) -> int:
        """Numbers from one line to the next: an odd number of cache lines, so that the same position of many lines
        does not lie in few sets of the first cache.
        """
        size = self.front + self.phases * self.plane
        if self.dense:
            return size
        line = CACHE_LINE // BYTES[self.problem.dtype]
        return (ceil(size / line) | 1) * line

    @property
    def image(self) -> int:
        """Numbers from one image to the next."""
        return prod(self.problem.output) if self.problem.pointwise else self.lines * self.line

    @property
    def size(self) -> int:
        """Numbers in all."""
        return self.lines * self.line * (1 if self.problem.pointwise else self.count)

    @property
    def separate(self) -> int:
        """Images that are looped over; the positions of one run through all of them otherwise."""
        return 1 if self.problem.pointwise else self.count


CACHE_LINE = 64  # bytes


def as_it_is(problem: Problem, lines: int) -> Planes:
    """PyTorch's own memory, of an image at a time."""
    return Planes(problem, 1, lines, 1, prod(problem.image), dense=True)


def positions(problem: Problem, count: int, whole: int) -> int:
    """Of an output's line, or all of `count` pointwise images, rounded up to a multiple of `whole`."""
    used = count * prod(problem.output) if problem.pointwise else problem.output[0] * problem.pitch
    return ceil(used / whole) * whole


def of_input(problem: Problem, count: int, whole: int, reach: int) -> Planes:
    """Of the input, or its gradient; a plane is read up to position `reach`, or written in steps of `whole`."""
    used = count * prod(problem.output) if problem.pointwise else problem.rows * problem.pitch
    plane = ceil(max(used, reach) / whole) * whole
    return Planes(problem, count, problem.channels, len(problem.phases), plane)


def of_input_gradient(problem: Problem, count: int, whole: int) -> Planes:
    """Of the input's gradient, whose rows in the padding nobody wants; written in steps of `whole`."""
    rows = max(end - first for first, end in (problem.rows_within(down) for down, _ in problem.phases))
    used = count * prod(problem.output) if problem.pointwise else rows * problem.pitch
    plane = ceil(max(used, 1) / whole) * whole
    return Planes(problem, count, problem.channels, len(problem.phases), plane, inner=True)


def of_output(problem: Problem, count: int, plane: int, front: int = 0) -> Planes:
    """Of the output, or its gradient."""
    return Planes(problem, count, problem.outputs, 1, plane, front)


def _each_row(planes: Planes, first_image: Expr, x: Buffer, buffer: Buffer, vectors: Vectors, into: bool) -> None:
    """Rows of the input into its planes, or from them into it."""
    p = planes.problem
    height, width = p.image
    with loop(planes.count) as image, loop(p.channels) as channel:
        for number, (down, right) in enumerate(p.phases):
            begin, end = p.columns_within(right)
            top, bottom = p.rows_within(down) if planes.inner else (0, p.rows)
            if bottom == top:
                continue
            with loop(bottom - top) as row:
                at = image * planes.image + channel * planes.line + number * planes.plane + row * p.pitch
                line = row * p.stride[0] + (top * p.stride[0] + down - p.padding[0])
                start = (((first_image + image) * p.channels + channel) * height + line) * width
                start = start + (right - p.padding[1] + begin * p.stride[1])
                with T.If(tirx.all(line >= 0, line < height)):
                    with T.Then():
                        if into:
                            for column in (*range(begin), *range(end, p.pitch)):
                                T.buffer_store(buffer, tirx.const(0, vectors.dtype), [at + column])
                            copy_row(vectors, buffer, at + begin, x, start, end - begin, (1, p.stride[1]))
                        else:
                            copy_row(vectors, x, start, buffer, at + begin, end - begin, (p.stride[1], 1))
                    if into:
                        with T.Else():
                            clear(vectors, buffer, at, p.pitch)
            rest = planes.plane - p.rows * p.pitch
            if into and rest > 0 and not p.pointwise:
                at = image * planes.image + channel * planes.line + number * planes.plane + p.rows * p.pitch
                clear(vectors, buffer, at, rest)


def clear_rest(planes: Planes, buffer: Buffer, vectors: Vectors) -> None:
    """Zeros behind the last of pointwise images."""
    used = planes.count * prod(planes.problem.output)
    if planes.problem.pointwise and planes.plane > used:
        with loop(planes.lines) as line:
            clear(vectors, buffer, line * planes.line + planes.front + used, planes.plane - used)


def pack_input(planes: Planes, first_image: Expr, x: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """`buffer` gets images `first_image` and following of x [B, C, H, W]."""
    if planes.problem.turned:
        _turn_in(planes, first_image, x, buffer, vectors)
        return
    _each_row(planes, first_image, x, buffer, vectors, into=True)
    clear_rest(planes, buffer, vectors)


def unpack_input(planes: Planes, first_image: Expr, x: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """Those images get what `buffer` holds of them. Pixels that no tap reads keep what they were."""
    if planes.problem.turned:
        _turn_out(planes, first_image, x, planes.lines, 0, buffer, vectors)
        return
    _each_row(planes, first_image, x, buffer, vectors, into=False)


def pack_output(planes: Planes, first_image: Expr, y: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """`buffer` gets images of y [B, O, H', W'], zeros between its rows, before and behind them."""
    p = planes.problem
    if p.turned:
        _turn_in(planes, first_image, y, buffer, vectors)
        return
    height, width = p.output
    with loop(planes.count) as image, loop(p.outputs) as output:
        line = image * planes.image + output * planes.line
        if planes.front:
            clear(vectors, buffer, line, planes.front)
        with loop(height) as row:
            at = line + planes.front + row * p.pitch
            copy_row(
                vectors, buffer, at, y, (((first_image + image) * p.outputs + output) * height + row) * width, width
            )
            for column in range(width, p.pitch):
                T.buffer_store(buffer, tirx.const(0, vectors.dtype), [at + column])
        rest = planes.plane - height * p.pitch
        if rest > 0 and not p.pointwise:
            clear(vectors, buffer, line + planes.front + height * p.pitch, rest)
    clear_rest(planes, buffer, vectors)


def unpack_rows(
    planes: Planes, first_image: Expr, block_row: Expr, y: Buffer, buffer: Buffer, vectors: Vectors
) -> None:
    """y's outputs of a block row, of those images, get what `buffer [images, n, positions]` holds."""
    p = planes.problem
    if p.turned:
        _turn_out(planes, first_image, y, p.outputs, block_row * p.n, buffer, vectors)
        return
    height, width = p.output
    with loop(planes.count) as image, loop(p.n) as lane, loop(height) as row:
        output = block_row * p.n + lane
        at = (((first_image + image) * p.outputs + output) * height + row) * width
        copy_row(vectors, y, at, buffer, image * planes.image + lane * planes.line + row * p.pitch, width)


def _turn_in(planes: Planes, first_image: Expr, x: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """Lines of `buffer` get the columns of x [B * positions, lines], of the rows of those images."""
    own = prod(planes.problem.image)
    start = first_image * (own * planes.lines)
    turn(vectors, buffer, planes.front, planes.line, x, start, planes.lines, (planes.count * own, planes.lines))
    clear_rest(planes, buffer, vectors)


def _turn_out(
    planes: Planes, first_image: Expr, x: Buffer, columns: int, first: Expr | int, buffer: Buffer, vectors: Vectors
) -> None:
    """The rows of those images of x [B * positions, columns] get the lines of `buffer` from column `first` on."""
    own = prod(planes.problem.image)
    at = first_image * (own * columns) + first
    turn(vectors, x, at, columns, buffer, planes.front, planes.line, (planes.lines, planes.count * own))
