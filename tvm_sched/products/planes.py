"""Images into planes and back (problem.py): `count` images side by side in one piece of memory.

Of `pointwise` problems the images' positions follow each other without a gap, so that vectors run across them; else
each image has planes of its own, or each group of images that are interleaved: at each pixel theirs side by side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tvm_sched.products.emit import Vectors, clear, copy_row, loop, memory, turn
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


def _each_row(
    planes: Planes, place: Expr, x: Buffer, first: Expr | int, buffer: Buffer, vectors: Vectors, into: bool
) -> None:
    """Rows of the image that begins at x[first] into its planes, or from them into it; `place` is the image's among the
    planes'.
    """
    p = planes.problem
    height, width = p.image
    with loop(p.channels) as channel:
        for number, (down, right) in enumerate(p.phases):
            begin, end = p.columns_within(right)
            top, bottom = p.rows_within(down) if planes.inner else (0, p.rows)
            if bottom == top:
                continue
            with loop(bottom - top) as row:
                at = place * planes.image + channel * planes.line + number * planes.plane + row * p.pitch
                inside = at + begin * p.interleaved
                line = row * p.stride[0] + (top * p.stride[0] + down - p.padding[0])
                column = right - p.padding[1] + begin * p.stride[1]
                start = first + ((channel * height + line) * width + column) * p.interleaved
                with T.If(tirx.all(line >= 0, line < height)):
                    with T.Then():
                        if into:
                            clear(vectors, buffer, at, begin * p.interleaved)
                            clear(vectors, buffer, at + end * p.interleaved, (p.columns - end) * p.interleaved)
                            _copy_pixels(p, vectors, buffer, inside, x, start, end - begin, (1, p.stride[1]))
                        else:
                            _copy_pixels(p, vectors, x, start, buffer, inside, end - begin, (p.stride[1], 1))
                    if into:
                        with T.Else():
                            clear(vectors, buffer, at, p.pitch)
            rest = planes.plane - p.rows * p.pitch
            if into and rest > 0 and not p.pointwise:
                at = place * planes.image + channel * planes.line + number * planes.plane + p.rows * p.pitch
                clear(vectors, buffer, at, rest)


def _copy_pixels(
    problem: Problem,
    vectors: Vectors,
    target: Buffer,
    at: Expr,
    source: Buffer,
    start: Expr,
    count: int,
    steps: tuple[int, int],
) -> None:
    """So many pixels of a row, `steps` of target and source apart."""
    each = problem.interleaved
    if each == 1:
        copy_row(vectors, target, at, source, start, count, steps)
    elif steps == (1, 1):
        copy_row(vectors, target, at, source, start, count * each)
    elif count:
        with loop(count) as i:
            copy_row(vectors, target, at + i * (steps[0] * each), source, start + i * (steps[1] * each), each)


@contextmanager
def _images(
    planes: Planes,
    first_image: Expr,
    x: Buffer,
    image: int,
    part: tuple[Expr | int, int],
    vectors: Vectors,
    *,
    given: bool,
) -> Iterator[tuple[Expr, Buffer, Expr | int]]:
    """For each of the planes' images: its place among them, a buffer with its pixels, and where in it they begin. That
    is x, of so many numbers an `image`; where images are interleaved, memory for a group of them that is filled from x
    before (`given`), or written to x afterwards. part: (first number of an image, how many) are looked at.
    """
    group = planes.problem.interleaved
    offset, numbers = part
    with loop(planes.count) as place:
        start = (first_image + place) * (group * image) + offset
        if group == 1:
            yield place, x, start
            return
        beside = memory("beside", numbers * group, planes.problem.dtype)
        if given:
            turn(vectors, beside, 0, group, x, start, image, (group, numbers))
        yield place, beside, 0
        if not given:
            turn(vectors, x, start, image, beside, 0, group, (numbers, group))


def clear_rest(planes: Planes, buffer: Buffer, vectors: Vectors) -> None:
    """Zeros behind the last of pointwise images."""
    used = planes.count * prod(planes.problem.output)
    if planes.problem.pointwise and planes.plane > used:
        with loop(planes.lines) as line:
            clear(vectors, buffer, line * planes.line + planes.front + used, planes.plane - used)


def pack_input(planes: Planes, first_image: Expr, x: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """`buffer` gets images `first_image` and following of x [B, C, H, W]."""
    p = planes.problem
    if p.turned:
        _turn_in(planes, first_image, x, buffer, vectors)
        return
    numbers = p.channels * prod(p.image)
    with _images(planes, first_image, x, numbers, (0, numbers), vectors, given=True) as (place, pixels, start):
        _each_row(planes, place, pixels, start, buffer, vectors, into=True)
    clear_rest(planes, buffer, vectors)


def unpack_input(planes: Planes, first_image: Expr, x: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """Those images get what `buffer` holds of them, and zeros where no tap reads."""
    p = planes.problem
    if p.turned:
        _turn_out(planes, first_image, x, planes.lines, 0, buffer, vectors)
        return
    numbers = p.channels * prod(p.image)
    with _images(planes, first_image, x, numbers, (0, numbers), vectors, given=False) as (place, pixels, start):
        if untouched(p):
            clear(vectors, pixels, start, numbers * p.interleaved)
        _each_row(planes, place, pixels, start, buffer, vectors, into=False)


def untouched(problem: Problem) -> bool:
    """Whether there may be pixels of the input that no tap reads."""
    p = problem
    phases = len(p.phases) == p.stride[0] * p.stride[1]
    return not phases or any(
        (size - 1 + pad) // step >= count
        for size, pad, step, count in zip(p.image, p.padding, p.stride, (p.rows, p.columns), strict=True)
    )


def pack_output(planes: Planes, first_image: Expr, y: Buffer, buffer: Buffer, vectors: Vectors) -> None:
    """`buffer` gets images of y [B, O, H', W'], zeros between its rows, before and behind them."""
    p = planes.problem
    if p.turned:
        _turn_in(planes, first_image, y, buffer, vectors)
        return
    height, width = p.output[0], p.output[1] * p.interleaved
    numbers = p.outputs * prod(p.output)
    with (
        _images(planes, first_image, y, numbers, (0, numbers), vectors, given=True) as (place, pixels, start),
        loop(p.outputs) as output,
    ):
        line = place * planes.image + output * planes.line
        if planes.front:
            clear(vectors, buffer, line, planes.front)
        with loop(height) as row:
            at = line + planes.front + row * p.pitch
            copy_row(vectors, buffer, at, pixels, start + (output * height + row) * width, width)
            clear(vectors, buffer, at + width, p.pitch - width)
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
    height, width = p.output[0], p.output[1] * p.interleaved
    own = prod(p.output)
    part = block_row * (p.n * own), p.n * own
    with (
        _images(planes, first_image, y, p.outputs * own, part, vectors, given=False) as (place, pixels, start),
        loop(p.n) as lane,
        loop(height) as row,
    ):
        at = place * planes.image + lane * planes.line + row * p.pitch
        copy_row(vectors, pixels, start + (lane * height + row) * width, buffer, at, width)


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
