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
    """Backwards along one axis."""
    return rx.flip(x, where(int(call.attrs.axis)))


def softmax(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    """Along one axis."""
    return rx.nn.softmax(x, where(int(call.attrs.axis)))


def sliced(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    """A slice along some axes."""
    axes, *bounds = call.args[1:]
    moved = [where(int(axis)) for axis in axes.fields]
    return rx.strided_slice(x, moved, *bounds, assume_inbound=bool(call.attrs.assume_inbound))


def padded(call: relax.Call, x: relax.Expr, where: Callable[[int], int]) -> relax.Expr:
    """A margin along any axes."""
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


def regrouped(
    before: Sequence[int], middle: Sequence[int], after: Sequence[int], order: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """A reshape, permutation by `order` and reshape that split, move and join the channels of `[B, C, *spatial]`: a
    channel shuffle, or channels that become pixels beside each other (`pixel_shuffle`, transposed convolutions). Said
    of `[B, *spatial, C]`: (its shape with the channels split, the order of these axes before they are joined). None for
    anything else.

    before, middle, after: shapes of the tensor, of its split one, and of the joined one
    """
    spatial = len(before) - 2
    parts = len(middle) - 1 - spatial  # axes that the channels are split into
    if len(after) != len(before) or parts < 1 or middle[0] != before[0] or middle[1 + parts :] != before[2:]:
        return None
    places = joined_axes([middle[axis] for axis in order], after)
    if places is None:
        return None
    groups = [[order[at] for at in group] for group in places]
    wanted = [[0], [], *([1 + parts + i] for i in range(spatial))]  # the batch's axis, no spatial one, one each
    if [[axis for axis in group if axis == 0 or axis > parts] for group in groups] != wanted:
        return None
    moved = [axis for group in (groups[0], *groups[2:], groups[1]) for axis in group]
    where = {0: 0, **{axis: axis + spatial for axis in range(1, 1 + parts)}}
    where |= {1 + parts + i: 1 + i for i in range(spatial)}
    return [before[0], *before[2:], *middle[1 : 1 + parts]], [where[axis] for axis in moved]


def joined_axes(extents: Sequence[int], joined: Sequence[int]) -> list[list[int]] | None:
    """Which neighbouring axes a reshape joins into each of its result's; None where it also splits some."""
    groups, at = [], 0
    for size in joined:
        group, product = [], 1
        while at < len(extents) and (product < size or (extents[at] == 1 and not group)):
            product *= extents[at]
            group.append(at)
            at += 1
        if product != size:
            return None
        groups.append(group)
    if at < len(extents):
        return None
    return groups
