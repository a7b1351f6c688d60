"""Statements for TVM's builder that the products have in common: arguments, vectors, zeros, rows copied."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from tvm import IRModule, tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tvm_sched.passes.tir.marks import POINTERS
from tvm_sched.products.problem import Problem
from tvm_sched.products.product import MOST_NUMBERS


def module(name: str, body: Callable[[], None]) -> IRModule:
    """A module of one function, which `body` emits. Its arguments never overlap, and are pointers, numbers as they
    come: PyTorch's memory, wherever in it a tensor begins.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        body()
    func = builder.get()
    buffers = [each for each in func.params if isinstance(each.ty, tirx.BufferType)]
    pointers = {each: tirx.Var(each.name, tirx.buffer.buffer_data_pointer_type(each)) for each in buffers}
    declared = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in pointers.items()]
    params = [pointers.get(each, each) for each in func.params]
    given = tirx.PrimFunc(params, tirx.SeqStmt([*declared, func.body]))
    return IRModule({name: given.with_attrs({**func.attrs, POINTERS: True})})


def argument(name: str, dtype: str) -> Buffer:
    """The next argument: a contiguous array, seen flat, as long as it comes."""
    buffer = T.match_buffer(T.arg(name, T.handle()), (MOST_NUMBERS,), dtype)
    IRBuilder.name(name, buffer)
    return buffer


def number(name: str) -> Expr:
    """The next argument: an int32."""
    return T.arg(name, T.int32())


def memory(name: str, size: int, dtype: str, scope: str = "global") -> Buffer:
    """Memory from here to the end of the loop; of scope 'local', registers."""
    buffer = T.alloc_buffer((size,), dtype, scope=scope)
    IRBuilder.name(name, buffer)
    return buffer


class Vectors:
    """Loads and stores of so many lanes of a dtype."""

    def __init__(self, lanes: int, dtype: str) -> None:
        self.lanes, self.dtype, self.type = lanes, dtype, f"{dtype}x{lanes}"

    def load(self, buffer: Buffer, at: Expr | int) -> Expr:
        """The vector that begins at a place."""
        return buffer.vload([at], self.type)

    def store(self, buffer: Buffer, at: Expr | int, vector: Expr) -> None:
        """Puts a vector there."""
        T.buffer_store(buffer, vector, [T.ramp(at, 1, self.lanes)])

    def spread(self, scalar: Expr) -> Expr:
        """A scalar in all lanes."""
        return tirx.Broadcast(scalar, self.lanes)

    @property
    def zero(self) -> Expr:
        """Zeros."""
        return self.spread(tirx.const(0, self.dtype))

    def totals(self, vectors: list[Expr]) -> Expr:
        """The sums of the lanes of so many vectors (a power of two, at most a vector's lanes), side by side.

        Two vectors become one that holds half as many partial sums of each, until there is one; then its partial sums
        are halved.
        """
        each = self.lanes  # partial sums of each of the vectors that came
        while len(vectors) > 1:
            each //= 2
            vectors = [self._halved(pair, each, self.lanes) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        (vector,), lanes = vectors, self.lanes
        while each > 1:
            each, lanes = each // 2, lanes // 2
            vector = self._halved([vector], each, lanes)
        return vector

    @staticmethod
    def _halved(vectors: Sequence[Expr], each: int, lanes: int) -> Expr:
        """`lanes` sums of two neighbouring stretches of `each` numbers."""
        first = [stretch + i for stretch in range(0, 2 * lanes, 2 * each) for i in range(each)]
        return tirx.Shuffle([*vectors], first) + tirx.Shuffle([*vectors], [place + each for place in first])


def loop(count: Expr | int) -> AbstractContextManager:
    """One step after the other."""
    return T.serial(0, count)


def shared(count: int) -> AbstractContextManager:
    """Steps that threads share."""
    return T.parallel(0, count)


def kernel_taps(problem: Problem, together: int = 1) -> Iterator[tuple[Expr | int, int]]:
    """(row, column) of the kernel's taps, of every `together`-th column: rows in a loop where that can be."""
    rows, columns = problem.kernel
    if problem.rows_alike and rows > 1:
        with loop(rows) as row:
            for column in range(0, columns, together):
                yield row, column
    else:
        for row in range(rows):
            for column in range(0, columns, together):
                yield row, column


def turn(
    vectors: Vectors,
    target: Buffer,
    at: Expr | int,
    pitch: int,
    source: Buffer,
    start: Expr | int,
    source_pitch: int,
    size: tuple[int, int],
) -> None:
    """`target[at + j*pitch + i] = source[start + i*source_pitch + j]` for i, j within size: by squares, whose sides are
    a vector's lanes, or powers of two where less is left.
    """
    for top, high, rows in _stretches(size[0], vectors.lanes):
        for left, wide, columns in _stretches(size[1], vectors.lanes):
            side = min(high, wide)
            with loop(rows * (high // side)) as i, loop(columns * (wide // side)) as j:
                row, column = top + i * side, left + j * side
                first, into = start + row * source_pitch + column, at + column * pitch + row
                _turn_square(Vectors(side, vectors.dtype), target, into, pitch, source, first, source_pitch)


def _stretches(count: int, most: int) -> Iterator[tuple[int, int, int]]:
    """(first, size, number) of pieces that cover so many places, sizes being powers of two."""
    first, size = 0, most
    while count > first:
        number = (count - first) // size
        if number:
            yield first, size, number
        first, size = first + number * size, size // 2


def _turn_square(
    vectors: Vectors, target: Buffer, at: Expr, pitch: int, source: Buffer, start: Expr, source_pitch: int
) -> None:
    """Of as many rows as a vector has lanes. What is row and lane of a number, in bits, is rotated by one bit where
    each of the first half of the rows is interleaved with one of the second: so often until lanes are rows.
    """
    lanes = vectors.lanes
    if lanes == 1:
        T.buffer_store(target, source[start], [at])
        return
    rows = [vectors.load(source, start + i * source_pitch) for i in range(lanes)]
    for _ in range(lanes.bit_length() - 1):
        held = memory("square", lanes * lanes, vectors.dtype, "local")
        for i, row in enumerate(rows):
            vectors.store(held, i * lanes, row)
        pairs = [[vectors.load(held, i * lanes) for i in (half, half + lanes // 2)] for half in range(lanes // 2)]
        rows = [
            tirx.Shuffle(pair, [place for i in range(first, first + lanes // 2) for place in (i, i + lanes)])
            for pair in pairs
            for first in (0, lanes // 2)
        ]
    for i, row in enumerate(rows):
        vectors.store(target, at + i * pitch, row)


def clear(vectors: Vectors, buffer: Buffer, first: Expr | int, count: int) -> None:
    """Zeros in so many places from `first` on."""
    whole, rest = divmod(count, vectors.lanes)
    if whole:
        with loop(whole) as i:
            vectors.store(buffer, first + i * vectors.lanes, vectors.zero)
    for i in range(count - rest, count):
        T.buffer_store(buffer, tirx.const(0, vectors.dtype), [first + i])


def copy_row(
    vectors: Vectors,
    target: Buffer,
    at: Expr | int,
    source: Buffer,
    start: Expr | int,
    count: int,
    steps: tuple = (1, 1),
) -> None:
    """`target[at + i*steps[0]] = source[start + i*steps[1]]` for i < count: by vectors where both steps are 1."""
    into, by = steps
    if into == by == 1:
        whole, rest = divmod(count, vectors.lanes)
        if whole:
            with loop(whole) as i:
                vectors.store(target, at + i * vectors.lanes, vectors.load(source, start + i * vectors.lanes))
        if rest and whole:  # once more what the last whole vector has, and the rest
            last = count - vectors.lanes
            vectors.store(target, at + last, vectors.load(source, start + last))
            return
        count, first = rest, count - rest
    else:
        first = 0
    if count:
        with T.vectorized(0, count) as i:
            T.buffer_store(target, source[start + (first + i) * by], [at + (first + i) * into])
