"""How a convolution's image lies in planes, so that a kernel's position is an offset.

A plane holds one channel, padding included; with a stride every stride-th of its rows, and there is one plane for each
phase. What is interleaved of it is, of every column phase, a run of `pitch` pixels a row. Output pixel (h, w) then is
position `h * pitch + w` of the run, and what it takes at a kernel's position is the same number of pixels further on:
so that a vector of outputs reads a vector of inputs, across the ends of rows too. The positions between two rows are
computed for nothing: with stride 1 their margins may be one.

The image is computed in tiles of whole rows; one that a 1x1 kernel reads has no rows, and its tiles are any number of
pixels that divides it.

Where lanes run over outputs instead (`planar/outputs.py`), pixels are taken one by one: none is computed for nothing
but those that fill the last register tile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_sched.kernels.fusion import annotate_read
from tvm_sched.kernels.integer.bfloats import BITS

TYPES = ("uint8", "int8", BITS)  # of images in planes
COPY = "tvm_sched.copy"  # for passes/integer/copy_bytes
LAYOUT = "planar.layout"  # attribute of the block of products
STORED = 64  # bytes of a vector of results


def up(number: int, multiple: int) -> int:
    """The next multiple."""
    return ceil(number / multiple) * multiple


def divided(number: Any, by: int) -> tuple:
    """Quotient and remainder."""
    return number // by, number % by


@dataclass(frozen=True)
class Layout:
    """Pairs are (height, width). `length`: pixels of a tile's run that are outputs; of a 1x1 kernel's any divisor of
    the image, else whole rows.
    """

    image: tuple[int, int]
    output: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]  # top, left
    dilation: tuple[int, int]
    lanes: int  # positions that a run is a multiple of: a vector, or two
    rows: int  # of outputs in a tile; 0 where a tile is `pixels`
    pixels: int = 0
    single: int = (
        0  # pixels that a tile computes one by one, lanes running over outputs; 0 where they run over positions
    )
    shared: int = 0  # 1 where a row's margin on the right is the next one's on the left

    @property
    def flat(self) -> bool:
        """Outputs are one run without ends of rows."""
        return self.kernel == (1, 1)

    @property
    def whole(self) -> bool:
        """Whether a tile's results are one run without gaps between rows."""
        return self.flat or self.single > 0

    @property
    def outputs(self) -> int:
        """Pixels of a tile."""
        return self.pixels if self.flat else self.rows * self.output[1]

    @property
    def phases(self) -> tuple[int, int]:
        """Runs of a channel, (down, right); there are `down` planes."""
        down, right = (stride if taps > 1 else 1 for stride, taps in zip(self.stride, self.kernel, strict=True))
        return down, right

    @property
    def pitch(self) -> int:
        """Positions from one row of a run to the next."""
        beyond, left = (self.kernel[1] - 1) * self.dilation[1] // self.stride[1], self.padding[1]
        if self.shared:
            return max(self.output[1] + max(0, beyond - left), left + self.image[1])
        return self.output[1] + beyond

    @property
    def tiles(self) -> int:
        """Of an image."""
        return prod(self.output) // self.pixels if self.flat else self.output[0] // self.rows

    @property
    def step(self) -> int:
        """Positions from one tile to the next."""
        return self.pixels if self.flat else self.rows * self.pitch

    @property
    def run(self) -> int:
        """Positions that a tile computes: whole vectors."""
        return up(self.outputs if self.whole else (self.rows - 1) * self.pitch + self.output[1], self.lanes)

    @property
    def reach(self) -> int:
        """Positions that a tile reads of a run, a multiple of 16."""
        positions = self.position(self.single - 1) + 1 if self.single else self.run
        return up(positions + self.offset(*(taps - 1 for taps in self.kernel)), 16)

    @property
    def plane(self) -> tuple[int, int]:
        """(rows, columns) of a plane; the last row may be there for whole vectors only."""
        rows = ceil(((self.tiles - 1) * self.step + self.reach) / self.pitch)
        return rows + (self.stride[1] > 1), self.pitch * self.stride[1]

    @property
    def copied(self) -> bool:
        """Whether planes are made of the image, rather than the image being planes as it is."""
        return not (self.flat and self.stride == (1, 1) and self.output == self.image)

    def phase(self, row: Any, column: Any) -> tuple:
        """The run that holds what a kernel's position takes."""
        return row * self.dilation[0] % self.phases[0], column * self.dilation[1] % self.phases[1]

    def offset(self, row: Any, column: Any) -> Any:
        """How much further on in the run a kernel's position takes its pixel."""
        down = row * self.dilation[0] // self.stride[0] if self.kernel[0] > 1 else 0
        right = column * self.dilation[1] // self.stride[1] if self.kernel[1] > 1 else 0
        return down * self.pitch + right

    def position(self, pixel: Any) -> Any:
        """Where in the run of a tile its pixel of that number lies; of those behind the last, which fill up a register
        tile, somewhere.
        """
        if self.flat:
            return pixel
        if isinstance(pixel, int):
            pixel = min(pixel, self.outputs - 1)
        elif self.single > self.outputs:
            pixel = tirx.min(pixel, self.outputs - 1)
        return pixel // self.output[1] * self.pitch + pixel % self.output[1]

    def place(self, h: Any, w: Any) -> tuple:
        """(tile, position in its run of results) of an output pixel."""
        if self.whole:
            pixel = h * self.output[1] + w
            return pixel // self.outputs, pixel % self.outputs
        return h // self.rows, h % self.rows * self.pitch + w

    def pixel(self, tile: Any, position: Any) -> tuple:
        """The output pixel (h, w) at a position of a tile's results; between rows, and behind the last, of no image."""
        if self.whole:
            pixel = tile * self.outputs + position
            return pixel // self.output[1], pixel % self.output[1]
        return tile * self.rows + position // self.pitch, position % self.pitch

    def attributes(self) -> dict:
        """As an attribute of a TIR block."""
        pairs = (self.image, self.output, self.kernel, self.stride, self.padding, self.dilation)
        return {
            LAYOUT: [number for pair in pairs for number in pair]
            + [self.lanes, self.rows, self.pixels, self.single, *[self.shared] * (self.shared > 0)]
        }

    @staticmethod
    def of_block(annotations: Mapping) -> "Layout":
        """The layout that `attributes` wrote on a block."""
        numbers = [int(number) for number in annotations[LAYOUT]]
        pairs = [(numbers[i], numbers[i + 1]) for i in range(0, 12, 2)]
        return Layout(*pairs, *numbers[12:])


def read_whole_runs(sch: Schedule, epilogue: SBlockRV, name: str, layout: Layout, tile_first: bool = False) -> None:
    """Lets the outputs ask block `name` for all positions of their tile's run, whole vectors; `tile_first`: of an array
    whose tiles are outside of channels.
    """

    def run(b, o, h, w):
        tile = layout.place(h, w)[0]
        points = (b, tile, o) if tile_first else (b, o, tile)
        return (*((point, point + 1) for point in points), (0, layout.run))

    annotate_read(sch, epilogue, name, run)


def padded_pixel(x: te.Tensor, zero_point: int, plane: tuple, row: Expr, column: Expr) -> Expr:
    """A pixel of a plane of `x [B, C, H, W]`, or the zero point outside: in the form that `copy_bytes` knows."""
    height, width = (int(extent) for extent in x.shape[2:])
    inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
    return tirx.if_then_else(inside, x(*plane, row, column), tirx.const(zero_point, x.dtype))


def copy_padded(sch: Schedule, column: LoopRV, left: int, width: int) -> None:
    """Marks the loop over a row of a padded plane, whose columns `left` to `left + width` are copied."""
    sch.annotate(column, COPY, [left, width])


def copy_whole(sch: Schedule, column: LoopRV) -> None:
    """Marks the loop over a row that is copied."""
    sch.annotate(column, COPY, [0, int(sch.get(column).extent)])
