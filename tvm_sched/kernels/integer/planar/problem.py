"""What `planar_conv2d` solves, and the names of its stages."""

from dataclasses import dataclass

from tvm.s_tir import Schedule

from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.fusion import find_block
from tvm_sched.kernels.integer.dots import DOTS, Dot
from tvm_sched.kernels.integer.planar.planes import Layout
from tvm_sched.kernels.rewrites.loops import share
from tvm_sched.targets import Target

NAME = "planar_conv2d"  # the block of products; the other stages' blocks are named after what they make
STAGES = ("planes", "interleaved", "turned", "residual", "rounded", "result")
PLANES, INTERLEAVED, TURNED, RESIDUAL, ROUNDED, RESULT = (f"planar_{stage}" for stage in STAGES)
DOT, GROUPS = "planar.dot", "planar.groups"  # attributes of that block


@dataclass(frozen=True)
class PlanarProblem:
    """A convolution in blocks of `groups` of kept channels, in tiles of a layout."""

    conv: ConvProblem
    layout: Layout
    dot: Dot
    groups: int

    @property
    def weights(self) -> str:
        """dtype of the weights in memory as the products read them: a vector for several pixels is widened there."""
        return self.dot.stored if self.layout.single else self.dot.w

    def shares_block_rows(self, target: Target) -> bool:
        """Whether threads share block rows, and before them the channels that these read, rather than an image's tiles:
        where all block rows read the same and there are too few tiles for equal shares.
        """
        conv = self.conv
        tiles = share(conv.batch * self.layout.tiles, target.cores)
        return not conv.indexed and share(conv.block_rows, target.cores) < tiles

    def busiest(self, target: Target) -> float:
        """The busiest core's share of the work."""
        conv, tiles = self.conv, self.conv.batch * self.layout.tiles
        if self.shares_block_rows(target):
            return share(conv.block_rows, target.cores)
        return share(tiles * (conv.block_rows if conv.indexed else 1), target.cores)

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.conv.attributes() | self.layout.attributes() | {DOT: self.dot.name, GROUPS: self.groups}


def problem_of(sch: Schedule, block: str = NAME) -> PlanarProblem:
    """What the function computes; `block`: the name of that of products."""
    notes = sch.get(find_block(sch, block)).annotations
    return PlanarProblem(ConvProblem.of_block(notes), Layout.of_block(notes), DOTS[str(notes[DOT])], int(notes[GROUPS]))
