"""Interleaves planes of bytes, so that a group of channels of each pixel lies side by side: of TVM's own loops LLVM makes
loads of single bytes.

    out[p, j] = x_j[p]        j < group: rows of anywhere

A schedule marks the loop over p (`INTERLEAVE`), up to 64 pixels, inside which is the one over j; the phase
`interleave_bytes` puts vectors in its place. For a group of four, vectors are taken apart in 128-bit lanes, as in
`rewrites/transpose.py`, by two rounds of 'unpack', of bytes, then of pairs. These put pixels 16 l + 4 v ... into lane l
of vector v; so that pixels come out in order, the bytes of each plane go into lanes by fours beforehand, one
permutation a plane:

    plane      pixels 0-3  4-7  8-11  12-15 | 16-19 ...
    permuted          0-3  16-19  32-35  48-51 | 4-7  20-23 ...          64 pixels, four lanes
    unpacked          vector 0: pixels 0-15, four channels each; vector 1: 16-31; ...
"""

from tvm.ir import Expr
from tvm.s_tir import Schedule
from tvm.tirx import Shuffle

INTERLEAVE = "tvm_sched.interleave"
LANE, WORD = 16, 4  # bytes of a lane; bytes that the permutation keeps together
MOST = 64  # pixels of a vector


def interleave(sch: Schedule, loop, stride: int) -> None:
    """Marks the loop over pixels, each of which lies so many bytes behind the one before."""
    sch.annotate(loop, INTERLEAVE, stride)


def interleaved(planes: list[Expr]) -> list[Expr]:
    """Vectors of as many bytes as the planes' vectors have pixels, which are a power of two of 16 at least: all pixels'
    groups in order.
    """
    width = int(planes[0].ty.dtype.lanes)
    if len(planes) == 1:
        return planes
    if len(planes) == 2:
        order = [plane + pixel for pixel in range(width) for plane in (0, width)]
        return [Shuffle(planes, order[:width]), Shuffle(planes, order[width:])]
    lanes = width // LANE
    words = [v * lanes + lane for lane in range(lanes) for v in range(LANE // WORD)]
    permutation = [WORD * word + byte for word in words for byte in range(WORD)]
    planes = [plane if lanes == 1 else Shuffle([plane], permutation) for plane in planes]
    first, second = ([unpack(*pair, width, half, 1) for half in (0, 1)] for pair in (planes[:2], planes[2:]))
    return [unpack(first[half], second[half], width, part, 2) for half in (0, 1) for part in (0, 1)]


def unpack(one: Expr, other: Expr, width: int, half: int, size: int) -> Expr:
    """From the low or high half of each lane of two vectors of bytes, `size` of the one and of the other in turn."""
    starts = [lane + half * LANE // 2 + i for lane in range(0, width, LANE) for i in range(0, LANE // 2, size)]
    return Shuffle([one, other], [vector + start + i for start in starts for vector in (0, width) for i in range(size)])
