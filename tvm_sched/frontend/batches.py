"""A large batch goes through the network in parts, each as many images as the caches hold.

Layer after layer over a whole batch, every activation goes to memory and comes back: at 224x224 eight images at a time
take half as long again as one after another. What a batch would save, reading the weights once, is less.
"""

from math import prod

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from subp_contract.modes import in_eval_mode
from tvm_sched.targets.sizes import FLOAT

TENSORS = 3  # of a layer at a time: input, output, residual


def parts(module, example_input: torch.Tensor, cache_bytes: int) -> int:
    """Into how many equal parts to divide the batch `example_input [B, ...]`; 1 for an exported program, whose shape is
    fixed, and for a network in which images influence one another.
    """
    if isinstance(module, ExportedProgram) or example_input.ndim < 2 or len(example_input) < 2:
        return 1
    if not example_input.is_floating_point():
        return 1
    batch = len(example_input)
    try:
        with in_eval_mode(module), torch.no_grad():
            most = largest_activation(module, example_input[:1])
            images = max(
                d for d in range(1, batch + 1) if batch % d == 0 and (d == 1 or d * TENSORS * most <= cache_bytes)
            )
            return batch // images if images < batch and independent(module, example_input, images) else 1
    except Exception:  # of any kind: the network's own code runs, and it may want its batch whole
        return 1


def largest_activation(module: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes of the largest tensor that a layer makes of `x`."""
    sizes = [FLOAT * x.numel()]

    def note(_layer, _inputs, output):
        if isinstance(output, torch.Tensor):
            sizes.append(FLOAT * prod(output.shape))

    hooks = [layer.register_forward_hook(note) for layer in module.modules()]
    try:
        module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def independent(module: torch.nn.Module, batch: torch.Tensor, images: int) -> bool:
    """Whether the network gives the same for `images` at a time as for the whole batch, one row an image. Random images
    tell, where equal ones would hide it.
    """
    x = torch.randn(batch.shape, generator=torch.Generator().manual_seed(0)).to(batch.dtype)
    whole, pieces = outputs(module(x)), [outputs(module(part)) for part in x.split(images)]
    joined = [torch.cat(each) for each in zip(*pieces, strict=True)]
    return len(whole) == len(joined) and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-4 * float(one.abs().max()))
        for one, other in zip(whole, joined, strict=True)
    )


def outputs(result) -> list[torch.Tensor]:
    """What a network returned, its structure left away; what is no tensor has no rows to divide."""
    return tree_leaves(result)
