"""The main loop of each kernel on a target, for the block sizes, kernel sizes and strides that networks have: 28x28
pixels, 128 channels in and out.

What is looked at is the machine code of the tile that compiles by default. Sparse layers keep a quarter of their
blocks.
"""

from dataclasses import dataclass, replace

from tvm import IRModule, te
from tvm.s_tir import Schedule

from tvm_sched import codegen
from tvm_sched.estimation import machine_model
from tvm_sched.estimation.machine_model import Loop
from tvm_sched.kernels import (
    depthwise_conv2d,
    direct_conv2d,
    pixel_lanes_conv2d,
    winograd_conv2d,
)
from tvm_sched.kernels.winograd_conv2d import Form
from tvm_sched.targets.target import Target

SIZE, CHANNELS, DENSITY = 28, 128, 0.25
BLOCKS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Case:
    """One kernel with one kind of layer. `n` is 1 for a depthwise layer."""

    kernel: str
    n: int
    sparse: bool
    size: int  # of the convolution's kernel
    stride: int = 1

    def __str__(self):
        return (
            f"{self.kernel} 1x{self.n} {'sparse' if self.sparse else 'dense'} {self.size}x{self.size} stride "
            f"{self.stride}"
        )

    @property
    def function(self) -> tuple:
        """(kernel module, unscheduled function)"""
        kept, groups = (int(CHANNELS * DENSITY) if self.sparse else CHANNELS), CHANNELS // self.n
        indices = [te.placeholder((groups, kept), "int32")] if self.sparse else []
        if self.kernel == pixel_lanes_conv2d.NAME:
            inputs = [te.placeholder((SIZE * SIZE, CHANNELS)), te.placeholder((groups, kept, 1, 1, self.n)), *indices]
            return pixel_lanes_conv2d, made(
                inputs, pixel_lanes_conv2d.compute(*inputs, shape=(1, SIZE, SIZE, CHANNELS), lanes=4)
            )
        image, around = te.placeholder((1, SIZE * self.stride, SIZE * self.stride, CHANNELS)), (self.size // 2,) * 4
        if self.kernel == winograd_conv2d.NAME:
            form = Form(4, 3)
            inputs = [image, te.placeholder((form.size, form.size, groups, kept, self.n)), *indices]
            return winograd_conv2d, made(inputs, winograd_conv2d.compute(*inputs, form=form))
        strides = {"stride": (self.stride, self.stride), "padding": around}
        if self.kernel == depthwise_conv2d.NAME:
            inputs = [image, te.placeholder((self.size, self.size, CHANNELS))]
            return depthwise_conv2d, made(inputs, depthwise_conv2d.compute(*inputs, **strides))
        inputs = [image, te.placeholder((groups, kept, self.size, self.size, self.n)), *indices]
        return direct_conv2d, made(inputs, direct_conv2d.conv2d(*inputs, out_channels=CHANNELS, **strides))


def made(inputs: list, output) -> IRModule:
    """The function of TE tensors, as a module."""
    return IRModule({"main": te.create_prim_func([*inputs, output])})


CASES = [
    *(
        Case(direct_conv2d.NAME, n, sparse, size, stride)
        for n in BLOCKS
        for sparse in (True, False)
        for size, stride in ((1, 1), (1, 2), (3, 1), (3, 2))
    ),
    *(Case(winograd_conv2d.NAME, n, sparse, 3) for n in BLOCKS for sparse in (True, False)),
    Case(pixel_lanes_conv2d.NAME, 4, True, 1),
    *(Case(depthwise_conv2d.NAME, 1, False, 3, stride) for stride in (1, 2)),
]


def of(case: Case, target: Target) -> tuple[object, Loop | None]:
    """(default tile, main loop) of a case for one thread; no loop where the tile needs none."""
    target = replace(target, cores=1)
    kernel, mod = case.function
    sch = Schedule(mod)
    tile = kernel.tiles(sch, target)[0]
    kernel.schedule(sch, tile, target)
    return tile, machine_model.main_loop(codegen.build(sch.mod, target).mod.inspect_source("asm"))
