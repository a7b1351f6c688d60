"""Which block size and sparsity for a network on a CPU, before anything is trained or compiled: each choice is lowered
to kernels, whose times are those of tuning records, or the machine model's where there is none.

    made = lowered(module, x, target, sizes=[8, 16], sparsities=[0.5, 0.75])
    choices = with_accuracies(predicted(made, target, None, records), accuracies(results, "resnet18", "subp"))
    front = pareto(choices)
"""

import copy
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tvm import IRModule

from subp import models
from subp.deployment.networks import DEFAULTS, kind_of, load_network
from subp.deployment.random_networks import CLASSES
from subp.deployment.unit_scale import to_unit_scale
from subp.pruning.masking import trained_weight
from subp.pruning.methods import DENSE
from subp.pruning.methods.once import random_uniform
from subp.pruning.sparsifier import Sparsifier
from subp.training.experiments import read_rows
from subp_contract.errors import require
from tvm_sched import pipeline
from tvm_sched.estimation.estimate import RASPBERRY_PI_5, Board
from tvm_sched.estimation.predict import predict
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.precision import FLOAT32, Precision
from tvm_sched.quiet import quiet
from tvm_sched.targets import Target

A76 = "cortex-a76"  # estimated as on a Raspberry Pi 5
OTHER_GHZ = 3.0


@dataclass(frozen=True)
class Choice:
    """A way to prune the network. n is None for the dense one; `measured` is the share of `ms` that tuning records
    tell; accuracy where one was measured, with its seeds.
    """

    n: int | None
    sparsity: float
    ms: float
    measured: float = 0.0
    accuracy: float | None = None
    seeds: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"1x{self.n}, {self.sparsity:.0%}" if self.n else "dense"


def network_of(model: str, size: int | None, code: str | None) -> tuple[nn.Module, Tensor]:
    """(the network of a MODEL, dense where it is a name; an input); size and code as of `networks.load_network`. Raises
    UserError for an exported program, whose layers cannot be pruned.
    """
    kind, path = kind_of(model)
    generator = torch.Generator().manual_seed(0)
    if kind == "name":
        return models.create(model, CLASSES), torch.randn(1, 3, *[size or DEFAULTS["size"]] * 2, generator=generator)
    require(
        kind != "program", f"{path} is an exported program, whose layers cannot be pruned: give what it was made of"
    )
    network, _ = load_network(model, dict.fromkeys(DEFAULTS) | {"size": size, "code": code})
    return network.module, network.only_input()


def lowered(
    module: nn.Module,
    x: Tensor,
    target: Target,
    sizes: Sequence[int],
    sparsities: Sequence[float],
    track: Callable[[list], Iterable] = iter,
    records=None,
    precision: Precision = FLOAT32,
) -> dict[tuple[int | None, float], IRModule]:
    """(n, sparsity) -> the network as calls of kernels: the dense one, (None, 0), then every block size at every
    sparsity. track: iterates over what is to be done, showing how far it is. records: that say which forms layers take.
    precision: one that is calibrated is so on the input, of networks of weights to which that is no matter
    """
    keys = [(None, 0.0), *itertools.product(sizes, sparsities)]
    made = {}
    for n, sparsity in track(keys):
        network = with_zeros(module, n, sparsity) if n else module
        with quiet():
            if precision.before:
                network = precision.before(of_unit_scale(network, x), [x], x, None)
                network = torch_export.fixed(network, x)
            compilation = Compilation(target, records, dense=n is None, precision=precision)
            made[n, sparsity] = pipeline.fused(torch_export.from_torch(network, x), compilation)
    return made


def predicted(
    made: dict[tuple[int | None, float], IRModule], target: Target, ghz: float | None, records
) -> list[Choice]:
    """The choices with their latencies, the dense network first."""
    predictions = predict(made, target, board_of(target, ghz), records)
    return [Choice(n, sparsity, 1e3 * each.seconds, each.measured) for (n, sparsity), each in predictions.items()]


def board_of(target: Target, ghz: float | None = None) -> Board:
    """What is assumed of the machine around the CPU, at its own frequency or that one."""
    board = RASPBERRY_PI_5 if target.family == A76 else Board(OTHER_GHZ, math.inf, math.inf)
    return replace(board, ghz=ghz or board.ghz)


def with_zeros(module: nn.Module, n: int, sparsity: float, **selection: Sequence[str]) -> nn.Module:
    """A copy with random uniform 1xN zeros, and no others, in the layers that would be pruned; selection: `exclude` and
    `include` of Sparsifier.
    """
    copied = copy.deepcopy(module)
    method = random_uniform.METHOD.name
    sparsifier = Sparsifier(copied, n=n, sparsity=sparsity, method=method, epochs=1, **selection)
    for place in sparsifier.places.values():
        torch.nn.init.ones_(trained_weight(*place))
    sparsifier.step(0)
    return sparsifier.fold()


def of_unit_scale(module: nn.Module, x: Tensor) -> nn.Module:
    """A copy whose activations are of about unit scale, so that 8 bits hold them."""
    copied = copy.deepcopy(module)
    to_unit_scale(copied, x.expand(max(len(x), 2), *x.shape[1:]))  # batch norms take no statistics of one number
    return copied


def accuracies(results: Path, network: str, method: str) -> dict[tuple[int | None, float], list[float]]:
    """(N, sparsity) -> the accuracies that the CSV file has of them, one a seed; its `dense` rows are (None, 0).

    Raises UserError for another file than one of results, and where it has none of the network.
    """
    rows = [row for row in read_rows(results) if row["network"] == network and not row.get("variant")]
    require(bool(rows), f"{results} has no row of the network {network!r}: name one with --network")
    found: dict[tuple[int | None, float], list[float]] = {}
    for row in rows:
        if row["method"] in (method, DENSE):
            key = (None, 0.0) if row["method"] == DENSE else (int(row["n"]), float(row["sparsity"]))
            found.setdefault(key, []).append(float(row["accuracy"]))
    return found


def with_accuracies(choices: Sequence[Choice], found: Mapping[tuple[int | None, float], list[float]]) -> list[Choice]:
    """The choices with the means of the `accuracies` that were found of them."""
    return [
        replace(choice, accuracy=statistics.fmean(found[key]), seeds=len(found[key]))
        if (key := (choice.n, choice.sparsity)) in found
        else choice
        for choice in choices
    ]


def pareto(choices: Sequence[Choice]) -> list[Choice]:
    """Those with a measured accuracy that no faster one reaches, the fastest first."""
    front: list[Choice] = []
    for choice in sorted(
        (each for each in choices if each.accuracy is not None), key=lambda each: (each.ms, -each.accuracy)
    ):
        if not front or choice.accuracy > front[-1].accuracy:
            front.append(choice)
    return front
