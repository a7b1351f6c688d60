"""What a report tells: training runs, from their checkpoints, and measurements, from the JSON of `subp bench`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from subp.deployment import networks
from subp.pruning import summary
from subp.pruning.block_masks import Churn
from subp.pruning.masking import weight_of
from subp.pruning.methods import DENSE
from subp.pruning.selection import all_places
from subp_contract import pattern
from subp_contract.documents import read_json, shown
from subp_contract.errors import UserError, require

OF_ROW = ("network", "engine", "n", "sparsity", "precision", "batch", "threads", "median_ms", "p90_ms", "min_ms")
OPTIONAL = ("target", "time_over_d", "share_of_peak", "file_bytes", "ratio_to_best_dense")


_Time = Annotated[float, msgspec.Meta(gt=0, lt=1e12)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Row(msgspec.Struct):
    """What is drawn of a measurement; a table shows the others of OF_ROW and OPTIONAL as they are."""

    network: str
    engine: str
    median_ms: _Time
    threads: _Count
    batch: _Count = 1
    n: _Count | None = None
    sparsity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    precision: str = "float32"


class _Step(msgspec.Struct):
    """A call of a profile; its layer is empty for what is none."""

    layer: str
    kernel: str
    median_us: float
    share_of_peak: float | None = None


class _Profile(msgspec.Struct):
    """Where one network's time goes; a suite's profiles say of which."""

    steps: list[_Step]
    network: str | None = None
    precision: str = "float32"
    sparsity: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    threads: _Count | None = None


class _Written(msgspec.Struct):
    """What `subp bench --json` writes, as far as it is read."""

    measurements: list[_Row]
    machine: dict[str, Any] | None = None
    profiles: list[_Profile] = []
    accuracies: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]] = {}


@dataclass(frozen=True)
class Blocks:
    """The blocks of one layer: `kept [G, I]`, of `n` outputs each."""

    layer: str
    n: int
    kept: np.ndarray


@dataclass(frozen=True)
class Run:
    """A training run, or a checkpoint without a history."""

    name: str
    about: dict[str, Any]  # settings worth a line
    history: list[dict]
    layers: list[summary.LayerSummary]
    blocks: Blocks | None  # of the sparsest layer
    churn: dict[str, dict[int, Churn]] = field(default_factory=dict)  # layer -> epoch, from 1, that moved masks -> how


@dataclass(frozen=True)
class Measurements:
    """The rows of one JSON file."""

    name: str
    rows: list[dict]
    machine: dict[str, Any]
    profiles: list[dict] = field(default_factory=list)
    accuracies: dict[str, float] = field(default_factory=dict)  # of networks, by what they are, from 0 to 1


@dataclass(frozen=True)
class Content:
    """All that the page shows."""

    runs: list[Run] = field(default_factory=list)
    measurements: list[Measurements] = field(default_factory=list)


def read(sources: list[Path]) -> Content:
    """Of each source: a folder of `subp train`, a checkpoint, or a JSON file with measurements. Raises UserError for
    any other.
    """
    made = Content()
    for source in sources:
        if source.suffix == ".json":
            made.measurements.append(_measurements(source))
        else:
            made.runs.append(_run(source))
    return made


def _measurements(path: Path) -> Measurements:
    content = read_json(path, _Written, "what `subp bench --json` wrote to")
    require(bool(content["measurements"]), f"{path} holds no measurements: give what `subp bench --json` writes")
    rows = [_harmless(row) for row in content["measurements"]]
    profiles = [each | {"steps": [_harmless(step) for step in each["steps"]]} for each in content.get("profiles", [])]
    accuracies = {shown(name): accuracy for name, accuracy in content.get("accuracies", {}).items()}
    return Measurements(path.stem, rows, content.get("machine") or {}, profiles, accuracies)


def _harmless(values: dict) -> dict:
    return {name: shown(value) if isinstance(value, str) else value for name, value in values.items()}


def _run(path: Path) -> Run:
    kind, file = networks.kind_of(str(path))
    if kind != "checkpoint":
        raise UserError(f"{path} is neither a run of `subp train` nor a .json of `subp bench`")
    module, metadata = networks.load_coded(file, None, as_trained=True)
    about = metadata.get("preprocessing")
    shape = (about["channels"], about["size"], about["size"]) if about else None
    config, architecture = metadata.get("config", {}), metadata.get("architecture") or {}
    told = {"network": architecture.get("name"), "classes": len(metadata.get("classes", ())) or None}
    settings = ("method", "n", "sparsity", "epochs", "batch_size", "lr", "seed")
    pruning = ("n", "sparsity") if config.get("method") == DENSE else ()
    told |= {name: config.get(name) for name in settings if name not in pruning}
    history = metadata.get("history", [])
    layers = summary.inspect(module, shape)
    known = {name: value for name, value in told.items() if value is not None}
    name = path.stem if path.is_file() else path.name
    churn = _churn(metadata.get("churn", {}), len(history), file)
    return Run(name, known, history, layers, _sparsest(module, layers), churn)


def _churn(log: dict[str, list[list[int]]], epochs: int, file: str) -> dict[str, dict[int, Churn]]:
    """What training noted. Raises UserError where that is not of this many epochs."""
    rows = [row for rows in log.values() for row in rows]
    damage = f"{file} is damaged: its churn is not of a run of {epochs} epochs"
    require(all(epoch < epochs and blocks for epoch, _, blocks, *_ in rows), damage)
    return {shown(layer): {epoch + 1: Churn(*counts) for epoch, *counts in rows} for layer, rows in log.items() if rows}


def _sparsest(module: Any, layers: list[summary.LayerSummary]) -> Blocks | None:
    sparse = [layer for layer in layers if layer.n]
    if not sparse:
        return None
    chosen = min(sparse, key=lambda layer: (layer.density, -np.prod(layer.shape)))
    place = all_places(module)[chosen.name]
    used = pattern.occupancy(weight_of(*place).detach().numpy())
    assert chosen.n is not None
    return Blocks(chosen.name, chosen.n, pattern.kept_blocks(used, chosen.n))
