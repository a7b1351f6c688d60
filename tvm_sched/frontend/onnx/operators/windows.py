"""Sliding windows of convolutions and pooling: their extents, and what is padded for them."""

from dataclasses import dataclass

from torch import Tensor

from tvm_sched.frontend.onnx.operators.registry import Node
from tvm_sched.frontend.onnx.operators.shapes import padded


@dataclass(frozen=True)
class Windows:
    """Along each spatial axis: kernel, stride, dilation, elements padded before and after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, extents: tuple[int, ...], kernel: tuple[int, ...]) -> "Windows":
        """Those of a node on an input of these spatial extents."""
        axes = len(kernel)
        strides = tuple(node["strides"] or [1] * axes)
        dilations = tuple(node["dilations"] or [1] * axes)
        pads = node["pads"] or [0] * (2 * axes)
        before, after = tuple(pads[:axes]), tuple(pads[axes:])
        if (automatic := node["auto_pad"] or "NOTSET") != "NOTSET":
            totals = [0] * axes
            if automatic.startswith("SAME"):
                totals = [
                    max((-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1 - extent, 0)
                    for extent, size, stride, dilation in zip(extents, kernel, strides, dilations, strict=True)
                ]
            less = tuple(total // 2 for total in totals)
            more = tuple(total - half for total, half in zip(totals, less, strict=True))
            before, after = (more, less) if automatic == "SAME_LOWER" else (less, more)
        return cls(tuple(kernel), strides, dilations, before, after)

    @property
    def spans(self) -> tuple[int, ...]:
        """From a window's first element to its last, inclusive."""
        return tuple((size - 1) * dilation + 1 for size, dilation in zip(self.kernel, self.dilations, strict=True))

    @property
    def symmetric(self) -> bool:
        """Whether as much is padded before as after."""
        return self.before == self.after

    def outputs(self, extents: tuple[int, ...], ceil: bool) -> tuple[int, ...]:
        """How many windows there are along each axis. With `ceil` the last may reach beyond the padding, but not begin
        in what is padded after.
        """
        found = []
        for axis, extent in enumerate(extents):
            stride = self.strides[axis]
            room = extent + self.before[axis] + self.after[axis] - self.spans[axis]
            count = (-(-room // stride) if ceil else room // stride) + 1
            if ceil and (count - 1) * stride >= extent + self.before[axis]:
                count -= 1
            found.append(count)
        return tuple(found)

    def pad(self, x: Tensor, value: float = 0) -> Tensor:
        """`x [N, C, ...]` with its padding around."""
        return padded(x, list(zip(self.before, self.after, strict=True)), value)
