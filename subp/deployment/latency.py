"""Sparsity and block size by layer from a latency: of the compiled network's predicted time a fraction of the dense
one's, and of all ways to reach it the one that keeps most.

    sparsities, sizes = planned(model, settings, (3, 224, 224))      # settings.target_latency, .target, .n, .vary_n

The network is lowered dense and with every N at each of STEPS, as `subp advise` does, and each layer's time is read off
the predictions of its kernels. What a layer takes is assumed not to depend on the others, and the rest of the network
to take what it takes dense. Then a multiple-choice knapsack: one choice for each layer, the sum of times within the
limit, the sum of what is kept largest. Where N is one for all, that is the weights. Wider blocks take less time by
weight, so where N varies weights would always choose the widest; there it is the sum of squares that the best blocks
hold of weights drawn from one normal distribution (`energy`), which narrow blocks keep more of.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import chi2
from torch import nn

from subp.deployment.advice import board_of, with_zeros
from subp.pruning.masking import weight_of
from subp.pruning.schedules import pruned_count
from subp.pruning.selection import NARROWEST, block_size, select_layers
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


def planned(
    model: nn.Module, settings: Settings, input_shape: Sequence[int]
) -> tuple[dict[str, float], dict[str, int]]:
    """Name of each layer to prune -> its sparsity, 0 or one of STEPS; and -> the outputs in its blocks. Raises
    UserError where the latency is not met with the last of STEPS everywhere.

    model: not masked yet; its weights do not matter
    """
    assert settings.target_latency is not None
    selection = {"exclude": settings.exclude, "include": settings.include}
    places, _ = select_layers(model, settings.n, *selection.values())
    choices = [(settings.n, 0.0), *((n, sparsity) for n in widths(settings) for sparsity in STEPS)]
    times, rest = layer_times(model, choices, input_shape, settings.target, list(places), selection)
    # A layer that no block of 2n or its parts fits is dense by these choices: it keeps n, and never takes them.
    sizes = [[block_size(place, n) or settings.n for n, _ in choices] for place in places.values()]
    kept = np.array(
        [
            [_kept(weight_of(*place), n, p, settings.vary_n) for n, (_, p) in zip(of_layer, choices, strict=True)]
            for place, of_layer in zip(places.values(), sizes, strict=True)
        ]
    )
    dense = rest + times[:, 0].sum()
    least = rest + times.min(1).sum()
    limit = settings.target_latency * dense
    require(
        least <= limit,
        f"target_latency = {settings.target_latency} cannot be reached on {settings.target}: with {STEPS[-1]:.1%} of "
        f"the blocks pruned everywhere the network would still take {least / dense:.2f} of the dense one's time",
    )
    chosen = most_kept(times, kept, limit - rest)
    return (
        {name: choices[choice][1] for name, choice in zip(places, chosen, strict=True)},
        {name: of_layer[choice] for name, of_layer, choice in zip(places, sizes, chosen, strict=True)},
    )


def widths(settings: Settings) -> list[int]:
    """The N that layers choose among: n, which is taken where another is no better, then half and twice as many."""
    n = settings.n
    narrower = [n // 2] if n % 2 == 0 and n // 2 >= NARROWEST else []
    return [n, *narrower, 2 * n] if settings.vary_n else [n]


def _kept(weight: torch.Tensor, n: int, sparsity: float, vary_n: bool) -> float:
    """What the layer keeps: its weights, or of several N their expected sum of squares, each's being 1."""
    pruned = pruned_count(sparsity, weight.shape[1]) / weight.shape[1]
    share = energy(pruned, n * weight[0, 0].numel()) if vary_n else 1 - pruned
    return share * weight.numel()


def energy(pruned: float, size: int) -> float:
    """The share of all squares that blocks of `size` weights hold once the part `pruned` of them, those of least norm,
    is gone; of many weights from one normal distribution.

    A block's sum of squares is chi-squared with k = `size` degrees of freedom. Its density f_k has x f_k(x) = k
    f_k+2(x), so what lies above the quantile q is of the mean, k, the part 1 - F_k+2(q).
    """
    return float(chi2.sf(chi2.ppf(pruned, size), size + 2))


def layer_times(
    model: nn.Module,
    choices: Sequence[tuple[int, float]],
    input_shape: Sequence[int],
    target: str,
    names: Sequence[str],
    selection: dict,
) -> tuple[np.ndarray, float]:
    """(predicted seconds of each of the layers by each choice, an N and a sparsity, of which the first is dense
    [layers, choices]; those of the rest of the dense network), on one core of the target.
    """
    cpu = targets.get(target)
    records = open_records(None, cpu)
    plain = copy.deepcopy(model).cpu().float().eval()
    x = torch.zeros(1, *input_shape)
    lowered = {}
    for n, sparsity in choices:
        network = with_zeros(plain, n, sparsity, **selection) if sparsity else plain
        with quiet():
            compilation = Compilation(cpu, records, dense=not sparsity)
            lowered[n, sparsity] = pipeline.fused(torch_export.from_torch(network, x), compilation)
    made = list(predict(lowered, cpu, board_of(cpu), records).values())
    times = np.array([[each.layers.get(name, 0.0) for each in made] for name in names])
    return times, made[0].seconds - times[:, 0].sum()


def most_kept(times: np.ndarray, kept: np.ndarray, limit: float) -> list[int]:
    """The choice of each layer [layers] that keeps most within the limit, from what each takes and keeps [layers,
    choices].

    Dynamic programming over the time that is used, in UNITS * layers equal parts of the limit, each choice's time
    rounded up to whole parts: so the limit holds, and no choice that meets 1 - 1 / UNITS of it (0.25 % less) keeps
    more.
    """
    everything = kept.argmax(1)
    if np.take_along_axis(times, everything[:, None], 1).sum() <= limit:  # which rounding up could hide
        return everything.tolist()
    parts = UNITS * len(times)
    costs = np.ceil(times / limit * parts - 1e-9).astype(int)  # [layers, choices]
    best = np.zeros(parts + 1)  # the most kept by the layers so far, by the parts that they may use
    taken = []
    for cost, of_layer in zip(costs, kept, strict=True):
        tried = np.full((len(cost), parts + 1), -np.inf)
        for choice, (used, value) in enumerate(zip(cost, of_layer, strict=True)):
            if used <= parts:
                tried[choice, used:] = best[: parts + 1 - used] + value
        taken.append(tried.argmax(0))
        best = tried.max(0)
    left, chosen = parts, []
    for layer in reversed(range(len(times))):
        chosen.append(int(taken[layer][left]))
        left -= costs[layer, chosen[-1]]
    return chosen[::-1]
