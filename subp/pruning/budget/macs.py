"""Multiply-accumulates of a forward pass, by weight: without biases, norms, activations and attention's products."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from subp.pruning.masking import weight_of
from subp.pruning.selection import Place
from subp_contract.arguments import require_kind
from subp_contract.errors import UserError, first_line
from subp_contract.modes import in_eval_mode


@torch.no_grad()
def count_macs(model: nn.Module, places: dict[str, Place], input_shape: Sequence[int]) -> dict[str, int]:
    """Place's name -> multiply-accumulates of one input of `input_shape`, every weight taken as dense; a layer that
    runs twice counts twice, one that does not run has no entry.
    """
    macs: dict[str, int] = {}
    names: dict[nn.Module, list[str]] = {}
    for name, place in places.items():
        names.setdefault(place.layer, []).append(name)

    def add(layer: nn.Module, values_per_output: int) -> None:
        # Each output value takes one multiplication for every weight of its output channel.
        for name in names.get(layer, ()):
            macs[name] = macs.get(name, 0) + values_per_output * weight_of(*places[name]).numel()

    def count(layer: nn.Module, inputs: tuple, named_inputs: dict, output: Any) -> None:
        if isinstance(layer, nn.MultiheadAttention):  # of the same sequence three times, as in vision transformers
            queries = inputs[0] if inputs else named_inputs["query"]
            add(layer, queries.numel() // layer.embed_dim)
            add(layer.out_proj, queries.numel() // layer.embed_dim)  # whose weight is used without a call of it
        elif isinstance(layer, nn.RNNBase):
            add(layer, output[0].shape[:-1].numel())
        elif isinstance(layer, nn.Linear):
            add(layer, output.numel() // layer.out_features)
        else:
            add(layer, output.numel() // layer.out_channels)

    hooks = [layer.register_forward_hook(count, with_kwargs=True) for layer in names]
    require_kind("input_shape", input_shape, Sequence, "a shape, such as (3, 224, 224)")
    some = next(model.parameters())
    try:
        with in_eval_mode(model):
            model(torch.zeros(1, *input_shape, dtype=some.dtype, device=some.device))
    except RuntimeError as error:  # PyTorch's, of a layer that does not take what comes
        raise UserError(f"the model does not take an input of {list(input_shape)}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return macs
