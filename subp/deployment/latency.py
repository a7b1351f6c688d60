"""Sparsity by layer from a latency: of the compiled network's predicted time a fraction of the dense one's, and of all
ways to reach it the one that keeps most weights.

    sparsities = planned(model, settings, (3, 224, 224))      # settings.target_latency, .target, .n

The network is lowered dense and at each of STEPS, as `subp advise` does, and each layer's time is read off the
predictions of its kernels. What a layer takes is assumed not to depend on the others, and the rest of the network to
take what it takes dense. Then a multiple-choice knapsack: one step for each layer, the sum of times within the limit,
the sum of kept weights largest.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from subp.deployment.advice import board_of, with_zeros
from subp.pruning.masking import weight_of
from subp.pruning.schedules import pruned_count
from subp.pruning.selection import select_layers
from subp.pruning.settings import Settings
from subp_contract.errors import require
from tvm_sched import pipeline, targets
from tvm_sched.compiler import open_records
from tvm_sched.estimation.predict import predict
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.quiet import quiet

STEPS = (0.25, 0.5, 0.625, 0.75, 0.8125, 0.875, 0.9375)  # sparsities that a layer may get, besides 0
UNITS = 400  # of time, for each layer


def planned(model: nn.Module, settings: Settings, input_shape: Sequence[int]) -> dict[str, float]:
    """Name of each layer to prune -> its sparsity, 0 or one of STEPS. Raises UserError where not even the last of them
    meets the latency.

    model: not masked yet; its weights do not matter
    """
    assert settings.target_latency is not None
    selection = {"exclude": settings.exclude, "include": settings.include}
    places, _ = select_layers(model, settings.n, *selection.values())
    times, rest = layer_times(model, settings.n, input_shape, settings.target, list(places), selection)
    sizes = {name: weight_of(*place) for name, place in places.items()}
    weights = np.array([[_kept(each.shape[1], p) * each.numel() for p in (0.0, *STEPS)] for each in sizes.values()])
    dense = rest + times[:, 0].sum()
    least = rest + times.min(1).sum()
    limit = settings.target_latency * dense
    require(
        least <= limit,
        f"target_latency = {settings.target_latency} cannot be reached on {settings.target}: with {STEPS[-1]:.1%} of "
        f"the blocks pruned everywhere the network would still take {least / dense:.2f} of the dense one's time",
    )
    chosen = most_weights(times, weights, limit - rest)
    return {name: (0.0, *STEPS)[step] for name, step in zip(places, chosen, strict=True)}


def _kept(inputs: int, sparsity: float) -> float:
    return 1 - pruned_count(sparsity, inputs) / inputs


def layer_times(
    model: nn.Module, n: int, input_shape: Sequence[int], target: str, names: Sequence[str], selection: dict
) -> tuple[np.ndarray, float]:
    """(predicted seconds of each of the layers dense and at each of STEPS [layers, 1 + steps]; those of the rest of the
    dense network), on one core of the target.
    """
    cpu = targets.get(target)
    records = open_records(None, cpu)
    plain = copy.deepcopy(model).cpu().float().eval()
    x = torch.zeros(1, *input_shape)
    lowered = {}
    for sparsity in (0.0, *STEPS):
        network = with_zeros(plain, n, sparsity, **selection) if sparsity else plain
        with quiet():
            compilation = Compilation(cpu, records, dense=not sparsity)
            lowered[sparsity] = pipeline.fused(torch_export.from_torch(network, x), compilation)
    made = list(predict(lowered, cpu, board_of(cpu), records).values())
    times = np.array([[each.layers.get(name, 0.0) for each in made] for name in names])
    return times, made[0].seconds - times[:, 0].sum()


def most_weights(times: np.ndarray, weights: np.ndarray, limit: float) -> list[int]:
    """The choice of each layer [layers] that keeps most weights within the limit, from what each takes and keeps
    [layers, choices].

    Dynamic programming over the time that is used, in UNITS * layers equal parts of the limit, each choice's time
    rounded up to whole parts: so the limit holds, and no choice that meets 1 - 1 / UNITS of it (0.25 % less) keeps
    more.
    """
    everything = weights.argmax(1)
    if np.take_along_axis(times, everything[:, None], 1).sum() <= limit:  # which rounding up could hide
        return everything.tolist()
    parts = UNITS * len(times)
    costs = np.ceil(times / limit * parts - 1e-9).astype(int)  # [layers, choices]
    best = np.zeros(parts + 1)  # the most kept by the layers so far, by the parts that they may use
    taken = []
    for cost, weight in zip(costs, weights, strict=True):
        tried = np.full((len(cost), parts + 1), -np.inf)
        for choice, (used, kept) in enumerate(zip(cost, weight, strict=True)):
            if used <= parts:
                tried[choice, used:] = best[: parts + 1 - used] + kept
        taken.append(tried.argmax(0))
        best = tried.max(0)
    left, chosen = parts, []
    for layer in reversed(range(len(times))):
        chosen.append(int(taken[layer][left]))
        left -= costs[layer, chosen[-1]]
    return chosen[::-1]
