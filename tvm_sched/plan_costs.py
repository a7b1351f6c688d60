"""What a network would take on a CPU, before it is compiled: the machine model's cycles of each layer's cheapest plan.

    seconds = sum over layers of cycles(layer) / frequency

The model (`kernels.register_tile.cycles` and its like, by which kernels and tiles are chosen) counts multiply-adds, loads and transforms, shared
by the target's cores. Pooling, additions between layers and calls are not in it, so it ranks block sizes and sparsities better than it tells
milliseconds.
"""

from collections.abc import Sequence
from math import ceil, prod

from tvm_sched.passes.layer_plan import Layer, choose
from tvm_sched.targets import Target


def layer_cycles(layer: Layer, target: Target) -> float:
    """Cycles of one layer on the target's cores, by its cheapest kernel."""
    outputs, inputs, *kernel = layer.weight.shape
    if layer.groups == layer.channels == outputs:  # depthwise: loads bound it to about a vector's multiply-add a cycle
        vectors = ceil(outputs / target.lanes) * prod(layer.image)
        return vectors * prod(kernel) / target.cores
    return choose(layer, target).cycles


def network_cycles(layers: Sequence[Layer], target: Target) -> float:
    """Cycles of all."""
    return sum(layer_cycles(layer, target) for layer in layers)
