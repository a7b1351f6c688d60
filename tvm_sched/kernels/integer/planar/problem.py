"""What `planar_conv2d` solves, and the names of its stages."""

from dataclasses import dataclass

from tvm.s_tir import Schedule

from tvm_sched.kernels.conv_problem import ConvProblem
from tvm_sched.kernels.fusion import find_block
from tvm_sched.kernels.integer.dots import DOTS, Dot
from tvm_sched.kernels.integer.planar.planes import Layout

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

    def attributes(self) -> dict:
        """As attributes of the block of products."""
        return self.conv.attributes() | self.layout.attributes() | {DOT: self.dot.name, GROUPS: self.groups}


def problem_of(sch: Schedule, block: str = NAME) -> PlanarProblem:
    """What the function computes; `block`: the name of that of products."""
    notes = sch.get(find_block(sch, block)).annotations
    return PlanarProblem(ConvProblem.of_block(notes), Layout.of_block(notes), DOTS[str(notes[DOT])], int(notes[GROUPS]))
