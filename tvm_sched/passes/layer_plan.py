"""Which kernel a convolution or linear layer runs with, and with blocks of which size: the cheapest by estimate.

Block size is a question of cost, not only of the zeros a layer was trained with: 1x4 zeros can run as wider blocks (the union of four), 1x64 as
four narrower ones. Every size is packed in thought, every kernel that takes the layer is asked for its best tile's cycles, and the least wins.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log, log2, prod

import numpy as np

from tvm_sched import pattern
from tvm_sched.kernels import pixel_lanes_conv2d, winograd_conv2d
from tvm_sched.kernels.register_tile import Work, candidates, cycles
from tvm_sched.targets import Target


@dataclass(frozen=True)
class Layer:
    """A convolution `[B, H, W, C] -> [B, H', W', O]`; a linear layer is one row of pixels."""

    op: str  # in words
    weight: np.ndarray  # [O, C / groups, kh, kw]
    image: tuple[int, int, int]  # batch, height, width of the output
    channels: int  # of the input
    groups: int = 1
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense layer."""
        return prod(self.image) * self.weight.size

    def work(self, blocks: int, kept: int, n: int) -> Work:
        """The layer as `blocks` groups of `n` output channels that keep `kept` input channels each."""
        kernel = self.weight.shape[2:]
        indexed = kept < self.channels
        return Work(*self.image, self.channels, blocks, kept, n, kernel, self.stride, any(self.padding), indexed)


@dataclass(frozen=True)
class Plan:
    """How a layer runs: the kernel (Winograd's F(m, 3), or direct where m is 0), its block size, the blocks it keeps, and why."""

    m: int
    pixel_lanes: bool  # direct, but lanes over pixels, not over N
    n: int
    kept: np.ndarray  # bool [G, C]
    found_n: int | None  # block size the zeros were made with
    density: float  # fraction of the blocks of that size that are kept
    why: str

    @property
    def kernel(self) -> str:
        """The kernel's name for the reader."""
        direct = "pixel lanes" if self.pixel_lanes else "direct"
        return f"winograd F({self.m},3) 1x{self.n}" if self.m else f"{direct} 1x{self.n}"


def choose(layer: Layer, target: Target, ignore_zeros: bool = False) -> Plan:
    """The cheapest plan. With `ignore_zeros` every block counts as kept."""
    used = pattern.occupancy(layer.weight, layer.groups, ignore_zeros)
    own = pattern.occupancy(layer.weight, ignore_zeros=ignore_zeros)  # without the zeros that groups alone make
    found = pattern.find(own, layer.groups)
    density = float(pattern.kept_blocks(own, found.n).mean()) if found else 1.0
    packings = {n: pattern.kept_blocks(used, n) for n in pattern.SIZES}
    works = {n: layer.work(len(kept), max(1, int(kept.sum(axis=1).max())), n) for n, kept in packings.items()}
    estimates = {(0, False, n): direct_cycles(work, target) for n, work in works.items()}
    for n, work in works.items():
        if takes_winograd(layer, n, target):
            estimates |= {(m, False, n): winograd_cycles(work, m, target) for m in winograd_conv2d.FORMS}
        if takes_pixel_lanes(layer, n, target):
            estimates[0, True, n] = pixel_lanes_cycles(work, target)

    # One vector a block is simplest, and two where a scalar takes a register: both use it.
    simplest = target.lanes if target.broadcast_operand else 2 * target.lanes

    def preference(plan):
        """Estimates are rounded to 4 %; among equals the simpler: direct, and a block of few vectors."""
        return round(log(estimates[plan]) / 0.04), plan[0], plan[1], abs(log2(plan[2] / simplest))

    m, pixel_lanes, n = min(estimates, key=preference)
    return Plan(m, pixel_lanes, n, packings[n], found and found.n, density, reason(layer, found, works[n], ignore_zeros))


def reason(layer: Layer, found: pattern.Pattern | None, work: Work, ignore_zeros: bool) -> str:
    """Why a layer whose zeros are `found` runs as `work`."""
    if found is None:
        why = "dense: " + ("zeros ignored as asked" if ignore_zeros else "no 1xN blocks of zeros")
        why += f" that divide its {len(layer.weight)} output channels" if len(layer.weight) % min(pattern.SIZES) else ""
        return why + (f"; blocks outside the {layer.groups} groups are skipped" if layer.groups > 1 else "")
    if work.kept == work.channels:
        return f"dense: 1x{found.n} keeps {found.most} of {found.total} blocks, to skip the others would cost more"
    why = f"{1 - work.kept / work.channels:.0%} of the blocks are skipped"
    if work.n != found.n:
        why += f"; 1x{found.n} zeros run as 1x{work.n}, estimated faster"
    if not found.uniform:
        why += f"; not uniform ({found.least} to {found.most} kept a group), shorter rows filled with zeros"
    return why


def takes_winograd(layer: Layer, n: int, target: Target) -> bool:
    """3x3 of stride 1, whole vectors of channels on both sides, whole blocks."""
    out_channels, _, *kernel = layer.weight.shape
    plain = kernel == [3, 3] and layer.stride == layer.dilation == (1, 1)
    return plain and layer.channels % target.lanes == 0 and out_channels % target.lanes == 0 and out_channels % n == 0


def takes_pixel_lanes(layer: Layer, n: int, target: Target) -> bool:
    """1x1 of stride 1, blocks of less than a vector, at least a vector of pixels."""
    flat = layer.weight.shape[2:] == (1, 1) and layer.stride == (1, 1) and not any(layer.padding)
    return flat and pixel_lanes_conv2d.takes(prod(layer.image), layer.channels, len(layer.weight), n, target)


@lru_cache(maxsize=4096)
def direct_cycles(work: Work, target: Target) -> float:
    """Cycles of the best tile."""
    return cycles(work, candidates(work, target, most=1)[0], target)


@lru_cache(maxsize=4096)
def winograd_cycles(work: Work, m: int, target: Target) -> float:
    """Cycles of the best bands and tiles of F(m, 3)."""
    grid = (work.batch, -(-work.height // m), -(-work.width // m))
    product = Work(1, 1, prod(grid), work.channels, work.groups, work.kept, work.n, indexed=work.indexed)
    return winograd_conv2d.estimate(product, m, grid, winograd_conv2d.knobs(product, m, grid, target)[0], target)


@lru_cache(maxsize=4096)
def pixel_lanes_cycles(work: Work, target: Target) -> float:
    """Cycles of the best tile."""
    flat = Work(1, 1, prod(work.image), work.channels, work.groups, work.kept, work.n, indexed=work.indexed)
    return pixel_lanes_conv2d.cycles(flat, target.lanes, pixel_lanes_conv2d.candidates(flat, target.lanes, target, most=1)[0], target)
