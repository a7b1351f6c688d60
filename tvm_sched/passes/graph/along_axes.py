"""Operators that name the axes they work along, for a tensor whose axes stand in another order."""

from collections.abc import Callable, Sequence

from tvm import relax
from tvm.relax import op as rx


def taken(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr | None:
    """A gather along one axis by a vector of positions, as resizing is; others would change the rank."""
    if call.attrs.axis is None or len(call.args[1].ty.shape) != 1:
        return None
    return rx.take(x, call.args[1], where(int(call.attrs.axis)), call.attrs.mode)


def flipped(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    return rx.flip(x, where(int(call.attrs.axis)))


def softmax(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    return rx.nn.softmax(x, where(int(call.attrs.axis)))


def sliced(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    axes, *bounds = call.args[1:]
    moved = [where(int(axis)) for axis in axes.fields]
    return rx.strided_slice(x, moved, *bounds, assume_inbound=bool(call.attrs.assume_inbound))


def padded(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    width = [int(each) for each in call.attrs.pad_width]
    pairs: list[Sequence[int]] = [()] * (len(width) // 2)
    for axis in range(len(pairs)):
        pairs[where(axis)] = width[2 * axis : 2 * axis + 2]
    return rx.nn.pad(x, [each for pair in pairs for each in pair], call.attrs.pad_mode, call.attrs.pad_value)


MOVED = {  # operator -> (the call, its tensor in the other order, old axis -> new axis) -> the call on that, or None
    "relax.take": taken,
    "relax.flip": flipped,
    "relax.nn.softmax": softmax,
    "relax.strided_slice": sliced,
    "relax.nn.pad": padded,
}
