"""Interleaves vectors, so that a group of channels of each pixel lies side by side: of TVM's own loops LLVM makes loads
of single bytes.

    out[p, j] = x_j[p]        j < group, of 1, 2 or 4: rows of anywhere

A schedule marks the loop over p (`INTERLEAVE`), inside which is the one over j; the phase `interleave_bytes` puts
vectors in its place. For a group of four, vectors are taken apart in 128-bit lanes, as in `rewrites/transpose.py`, by
two rounds of 'unpack', of numbers, then of pairs. These put pixels 16 l + 4 v ... (of bytes, four lanes) into lane l of
vector v; so that pixels come out in order, each plane's go into lanes by fours beforehand, one permutation a plane:

    plane      pixels 0-3  4-7  8-11  12-15 | 16-19 ...
    permuted          0-3  16-19  32-35  48-51 | 4-7  20-23 ...          64 pixels, four lanes
    unpacked          vector 0: pixels 0-15, four channels each; vector 1: 16-31; ...
"""

from tvm.ir import Expr
from tvm.s_tir import Schedule
from tvm.tirx import Shuffle

from tvm_sched.kernels.rewrites.transpose import unpack

INTERLEAVE = "tvm_sched.interleave"
LANE = 128  # bits
FOUR = 4
MOST = 64  # pixels of a vector of bytes


def interleave(sch: Schedule, loop, stride: int = 1, needed: int | None = None) -> None:
    """Marks the loop over pixels, each of which lies so many numbers behind the one before. Of those from `needed` on,
    if it is given, nobody asks what they become: they are not read.
    """
    extent = int(sch.get(loop).extent)
    sch.annotate(loop, INTERLEAVE, [stride, min(extent, needed or extent)])


def interleaved(planes: list[Expr]) -> list[Expr]:
    """As many vectors as there are planes, of their length, a power of two: all pixels' groups in order."""
    width = int(planes[0].ty.dtype.lanes)
    if len(planes) == 1:
        return planes
    in_lane = LANE // int(planes[0].ty.dtype.bits)
    if len(planes) < FOUR or width < in_lane:
        order = [plane * width + pixel for pixel in range(width) for plane in range(len(planes))]
        return [Shuffle(planes, order[first : first + width]) for first in range(0, len(order), width)]
    lanes, word = width // in_lane, in_lane // FOUR
    words = [v * lanes + lane for lane in range(lanes) for v in range(FOUR)]
    permutation = [word * place + number for place in words for number in range(word)]
    planes = [plane if lanes == 1 else Shuffle([plane], permutation) for plane in planes]
    first, second = ([unpack(*pair, in_lane, half, 1) for half in (0, 1)] for pair in (planes[:2], planes[2:]))
    return [unpack(first[half], second[half], in_lane, part, 2) for half in (0, 1) for part in (0, 1)]
