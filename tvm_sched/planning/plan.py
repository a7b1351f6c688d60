"""Which kernel a convolution or linear layer runs with, and with blocks of which size: the cheapest by estimate.

Block size is a question of cost, not only of the zeros a layer was trained with: 1x4 zeros can run as wider blocks (the
union of four), 1x64 as four narrower ones. Every size is packed in thought, every kernel that takes the layer is asked
for its best tile's cycles, and the least wins.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import ceil, log, log2, prod

import numpy as np

from subp_contract import pattern
from tvm_sched.kernels import (
    columns_conv2d,
    pixel_lanes_conv2d,
    space_to_depth,
    winograd_conv2d,
)
from tvm_sched.kernels.register_tile import Work, candidates, cycles
from tvm_sched.kernels.winograd_conv2d import FORMS, Form
from tvm_sched.targets import Target

DIRECT, PIXEL_LANES, COLUMNS = "direct", "pixel lanes", "columns"  # how a layer can run, besides the Winograd forms
COPY_CYCLES = 4  # of a vector


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

    @cached_property
    def phased(self) -> "Layer | None":
        """The layer on the phases of its image, of stride 1; None where there is no Winograd form for that, which alone
        makes it pay.
        """
        stride, size = self.stride[0], self.weight.shape[2]
        square = self.stride == (stride, stride) and self.weight.shape[2:] == (size, size)
        taps = ceil(size / stride)
        if (
            stride == 1
            or not square
            or self.groups > 1
            or self.dilation != (1, 1)
            or not any(form.taps == taps for form in FORMS)
        ):
            return None
        weight = space_to_depth.phase_weight(self.weight, stride)
        return replace(self, weight=weight, channels=weight.shape[1], stride=(1, 1), padding=(0, 0, 0, 0))

    @cached_property
    def as_columns(self) -> "Layer":
        """The layer as a 1x1 convolution of its columns."""
        weight = columns_conv2d.matrix(pattern.ungroup(self.weight, self.groups))
        return replace(self, weight=weight, channels=weight.shape[1], groups=1)

    def phases_shape(self, target: Target) -> tuple[int, int, int]:
        """(rows, columns, channels) of the phases that the phased layer reads; whole vectors of channels."""
        _, height, width = self.image
        taps = self.weight.shape[2]
        return height + taps - 1, width + taps - 1, ceil(self.channels / target.lanes) * target.lanes


@dataclass(frozen=True)
class Plan:
    """How a layer runs: with which kernel, as it is or on phases of its image, with which blocks, and why."""

    layer: Layer  # the given one, its phased one, or its columns
    how: str | Form
    n: int
    kept: np.ndarray  # bool [G, C] of `layer`
    found_n: int | None  # block size the zeros were made with
    density: float  # fraction of the blocks of that size that are kept
    why: str
    phased: bool
    cycles: float  # by estimate, on the target's cores

    @property
    def kernel(self) -> str:
        """The kernel's name for the reader."""
        return (
            f"{self.how if self.form is None else f'winograd {self.form}'} "
            f"1x{self.n}{' on phases' if self.phased else ''}"
        )

    @property
    def form(self) -> Form | None:
        """The Winograd form, if it is one."""
        return self.how if isinstance(self.how, Form) else None

    def kept_macs(self, layer: Layer) -> int:
        """Multiply-adds of the blocks that `layer`, which this is the plan of, computes; by direct convolution, the
        whole batch.
        """
        groups, channels = self.kept.shape
        most = max(1, int(self.kept.sum(axis=1).max()))
        taps = prod(layer.weight.shape[2:])
        return round(prod(layer.image) * groups * self.n * taps * most / channels * layer.channels)


def choose(layer: Layer, target: Target, ignore_zeros: bool = False) -> Plan:
    """The cheapest plan. With `ignore_zeros` every block counts as kept."""
    own = pattern.occupancy(layer.weight, ignore_zeros=ignore_zeros)  # without the zeros that groups alone make
    found = pattern.find(own, layer.groups)
    density = float(pattern.kept_blocks(own, found.n).mean()) if found else 1.0
    variants = {False: layer} if layer.phased is None else {False: layer, True: layer.phased}
    packings = {
        (phased, n): kept for phased, variant in variants.items() for n, kept in packed(variant, ignore_zeros).items()
    }
    estimates = {}
    for (phased, n), kept in packings.items():
        work = variants[phased].work(len(kept), max(1, int(kept.sum(axis=1).max())), n)
        for form in winograd_forms(variants[phased], n, target, phased):
            estimates[phased, form, n] = winograd_cycles(
                variants[phased], work, form, target, layer.channels if phased else None
            )
        if not phased:
            estimates[phased, DIRECT, n] = direct_cycles(work, target)
            if found and pixel_lanes_conv2d.narrow(found.n, target) and takes_pixel_lanes(layer, n, target):
                estimates[phased, PIXEL_LANES, n] = pixel_lanes_cycles(work, target)

    columns = {} if ignore_zeros else patterned(layer, {n: packings[False, n] for n in pattern.SIZES})
    for n, kept in columns.items():
        work = layer.work(len(kept), max(1, int(kept.sum(axis=1).max())), n)
        estimates[False, COLUMNS, n] = columns_cycles(work, target)

    # One vector a block is simplest, and two where a scalar takes a register: both use it.
    simplest = 2 * target.lanes if target.scalar_operand == "register" else target.lanes

    def preference(plan):
        """Estimates are rounded to 4 %; among equals the simpler: direct, and a block of few vectors."""
        _, how, n = plan
        simplicity = how.size if isinstance(how, Form) else [DIRECT, PIXEL_LANES, COLUMNS].index(how)
        return round(log(estimates[plan]) / 0.04), simplicity, abs(log2(n / simplest))

    phased, how, n = min(estimates, key=preference)
    if how == COLUMNS:
        return columns_plan(layer.as_columns, n, columns[n], estimates[phased, how, n])
    why = reason(layer, found, n, packings[False, n], ignore_zeros)
    return Plan(
        variants[phased],
        how,
        n,
        packings[phased, n],
        found and found.n,
        density,
        why,
        phased,
        estimates[phased, how, n],
    )


def packed(layer: Layer, ignore_zeros: bool) -> dict[int, np.ndarray]:
    """By block size, the blocks that must be kept."""
    used = pattern.occupancy(layer.weight, layer.groups, ignore_zeros)
    return {n: pattern.kept_blocks(used, n) for n in pattern.SIZES}


def patterned(layer: Layer, kept: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """By block size, the columns that must be kept, where the kernels of kept blocks share patterns: where those are
    fewer.
    """
    taps = prod(layer.weight.shape[2:])
    if taps == 1:
        return {}
    columns = packed(layer.as_columns, False)
    return {n: blocks for n, blocks in columns.items() if blocks.sum(axis=1).max() < taps * kept[n].sum(axis=1).max()}


def columns_plan(layer: Layer, n: int, kept: np.ndarray, cycles: float) -> Plan:
    """The plan of a layer that is given as its columns."""
    own = pattern.occupancy(layer.weight)
    found = pattern.find(own)
    density = float(pattern.kept_blocks(own, found.n).mean()) if found else float(kept.mean())
    most = int(kept.sum(axis=1).max())
    why = (
        f"{1 - most / layer.channels:.0%} of the columns are skipped: the kernels of a block share the positions that "
        "they keep"
    )
    return Plan(layer, COLUMNS, n, kept, found and found.n, density, why, False, cycles)


def reason(layer: Layer, found: pattern.Pattern | None, n: int, kept: np.ndarray, ignore_zeros: bool) -> str:
    """Why a layer whose zeros are `found` runs with blocks of `n`, `kept [G, C]` of them."""
    if found is None:
        why = "dense: " + ("zeros ignored as asked" if ignore_zeros else "no 1xN blocks of zeros")
        why += f" that divide its {len(layer.weight)} output channels" if len(layer.weight) % min(pattern.SIZES) else ""
        return why + (f"; blocks outside the {layer.groups} groups are skipped" if layer.groups > 1 else "")
    most = int(kept.sum(axis=1).max())
    if most == layer.channels:
        return f"dense: 1x{found.n} keeps {found.most} of {found.total} blocks, to skip the others would cost more"
    why = f"{1 - most / layer.channels:.0%} of the blocks are skipped"
    if n != found.n:
        why += f"; 1x{found.n} zeros run as 1x{n}, estimated faster"
    if not found.uniform:
        why += f"; not uniform ({found.least} to {found.most} kept a group), shorter rows filled with zeros"
    return why


def winograd_forms(layer: Layer, n: int, target: Target, phased: bool) -> list[Form]:
    """The forms that take the layer: square kernels of stride 1, whole vectors of channels on both sides (phases are
    filled up to that), whole blocks.
    """
    out_channels, _, *kernel = layer.weight.shape
    whole = (
        out_channels % target.lanes == 0 and out_channels % n == 0 and (phased or layer.channels % target.lanes == 0)
    )
    plain = layer.stride == layer.dilation == (1, 1)
    return [form for form in FORMS if whole and plain and kernel == [form.taps, form.taps]]


def takes_pixel_lanes(layer: Layer, n: int, target: Target) -> bool:
    """1x1 without padding, narrow blocks, at least a vector of pixels; of a strided layer the pixels that it reads are
    copied.
    """
    flat = layer.weight.shape[2:] == (1, 1) and not any(layer.padding)
    return flat and pixel_lanes_conv2d.takes(prod(layer.image), layer.channels, len(layer.weight), n, target)


@lru_cache(maxsize=4096)
def direct_cycles(work: Work, target: Target) -> float:
    """Cycles of the best tile."""
    return cycles(work, candidates(work, target, most=1)[0], target)


def winograd_cycles(layer: Layer, work: Work, form: Form, target: Target, image_channels: int | None) -> float:
    """Cycles of the best bands and tiles; where the layer reads phases of an image of `image_channels` channels, with
    making these.
    """
    rows, cols, channels = layer.phases_shape(target)
    total = form_cycles(replace(work, channels=channels), form, target)
    return (
        total
        if image_channels is None
        else total + space_to_depth.cycles((work.batch, rows, cols, channels), image_channels, target)
    )


@lru_cache(maxsize=4096)
def form_cycles(work: Work, form: Form, target: Target) -> float:
    """Cycles of the form's best bands and tiles."""
    grid = (work.batch, ceil(work.height / form.m), ceil(work.width / form.m))
    product = Work(1, 1, prod(grid), work.channels, work.groups, work.kept, work.n, indexed=work.indexed)
    return winograd_conv2d.estimate(product, form, grid, winograd_conv2d.knobs(product, form, grid, target)[0], target)


@lru_cache(maxsize=4096)
def pixel_lanes_cycles(work: Work, target: Target) -> float:
    """Cycles of the best tile."""
    flat = Work(1, 1, prod(work.image), work.channels, work.groups, work.kept, work.n, indexed=work.indexed)
    copied = prod(flat.image) * work.channels / target.lanes if prod(work.stride) > 1 else 0  # vectors
    tile = pixel_lanes_conv2d.candidates(flat, target.lanes, target, most=1)[0]
    return pixel_lanes_conv2d.cycles(flat, target.lanes, tile, target) + COPY_CYCLES * copied


@lru_cache(maxsize=4096)
def columns_cycles(work: Work, target: Target) -> float:
    """Cycles of the best tile."""
    return columns_conv2d.estimate(work, target)
