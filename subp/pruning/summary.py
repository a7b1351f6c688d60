"""What a network's layers hold, and what a sparsifier does to each. `inspect(model)` gives a summary of each Conv1d,
Conv2d and Linear layer, each input projection of MultiheadAttention (under the module's name) and each matrix of
recurrent layers, found from the zeros alone.

    for layer in inspect(model, input_shape=(3, 224, 224)):
        print(layer.name, layer.n, layer.density, layer.macs)

Works on any nn.Module, whoever pruned it. Multiply-accumulates are counted for one image, without biases, norms and
activations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.pruning import block_masks
from subp.pruning.budget.macs import count_macs
from subp.pruning.masking import weight_of
from subp.pruning.selection import Place, all_places, places_of
from subp.pruning.sparse_compute import computation
from subp_contract import pattern
from subp_contract.arguments import require_kind

_INDEX_BYTES = 4


@dataclass(frozen=True)
class LayerState:
    """A row of `Sparsifier.summary()`: a layer pruned (`reason` is None), or left dense for a reason. `n` is None
    without blocks. `computes`: how it ran last, where `sparse_compute` is on and chooses for it.
    """

    name: str
    type: str
    n: int | None
    density: float
    reason: str | None
    computes: str | None = None


def layer_states(
    model: nn.Module, masks: Mapping[str, Tensor], sizes: Mapping[str, int], skipped: Mapping[str, str]
) -> list[LayerState]:
    """Of each layer with weights, in the model's order. By layer name: masks, sizes of blocks where there are blocks,
    and why others have no mask.
    """
    computes = computation(model)
    rows = []
    for layer_name, layer in model.named_modules():
        kind = parametrize.type_before_parametrizations(layer).__name__
        for name in {layer_name: None} | places_of(layer_name, layer):
            how = computes.get(id(layer))
            if name in masks:
                density = block_masks.density(masks[name])
                rows.append(LayerState(name, kind, sizes.get(name), density, None, how))
            elif name in skipped:
                rows.append(LayerState(name, kind, None, 1.0, skipped[name], how))
    return rows


@dataclass(frozen=True)
class LayerSummary:
    """One layer.

    shape:        of the weight, [O, I / groups, *kernel]
    n:            block size found in the zeros, None for a layer without a zero block
    density:      nonzero blocks / blocks; without n: nonzero weights / weights
    uniform:      every group of n outputs keeps the same number of blocks; None without n
    macs:         of the dense layer, for one input; None if no input shape was given, or if the layer did not run
    dense_bytes:  of the weight as it is
    bsr_bytes:    of its nonzero blocks and one 4-byte index each (and row pointers where not uniform); without n:
                  dense_bytes
    """

    name: str
    type: str
    shape: tuple[int, ...]
    n: int | None
    density: float
    uniform: bool | None
    macs: int | None
    dense_bytes: int
    bsr_bytes: int

    @property
    def sparse_macs(self) -> int | None:
        """Multiply-accumulates of the nonzero blocks; a layer without n counts as dense."""
        if self.macs is None or self.n is None:
            return self.macs
        return round(self.macs * self.density)


def inspect(model: nn.Module, input_shape: Sequence[int] | None = None) -> list[LayerSummary]:
    """The layers in the model's order. input_shape: of one input, e.g. (3, 224, 224), to count multiply-accumulates."""
    require_kind("model", model, nn.Module, "a torch.nn.Module")
    places = all_places(model)
    macs = count_macs(model, places, input_shape) if input_shape else {}
    return [_of_place(name, place, macs.get(name)) for name, place in places.items()]


def table(layers: Sequence[LayerSummary], title: str = "") -> Table:
    """For a rich console: a row for each layer, and totals."""
    result = Table(title=title, show_footer=True)
    macs, sparse_macs = (_total(layers, field) for field in ("macs", "sparse_macs"))
    dense_bytes, bsr_bytes = (sum(getattr(layer, field) for layer in layers) for field in ("dense_bytes", "bsr_bytes"))
    weights = sum(torch.Size(layer.shape).numel() for layer in layers)
    kept = sum(torch.Size(layer.shape).numel() * layer.density for layer in layers)
    result.add_column("layer", footer="total")
    result.add_column("type")
    result.add_column("weight", footer=f"{weights:,}", justify="right")
    result.add_column("n", justify="right")
    result.add_column("density", footer=f"{kept / weights:.1%}" if weights else "", justify="right")
    result.add_column("uniform")
    result.add_column("MACs", footer=_millions(macs), justify="right")
    result.add_column("sparse", footer=_millions(sparse_macs), justify="right")
    result.add_column("dense kB", footer=_kilobytes(dense_bytes), justify="right")
    result.add_column("BSR kB", footer=_kilobytes(bsr_bytes), justify="right")
    for layer in layers:
        result.add_row(
            layer.name,
            layer.type,
            "x".join(map(str, layer.shape)),
            str(layer.n or "-"),
            f"{layer.density:.1%}",
            {True: "yes", False: "no", None: "-"}[layer.uniform],
            _millions(layer.macs),
            _millions(layer.sparse_macs),
            _kilobytes(layer.dense_bytes),
            _kilobytes(layer.bsr_bytes),
        )
    return result


def layer_summary(name: str, kind: str, weight: Tensor, groups: int, macs: int | None) -> LayerSummary:
    """That of a layer of `weight` [O, I / groups, *kernel]. Blocks are searched among the channels as they are, within
    one of a convolution's groups: a permuted pattern is not found.
    """
    dense_bytes = weight.numel() * weight.element_size()
    used = _occupancy(weight)
    found = pattern.find(used, groups)
    if found is None:
        n, uniform, bsr_bytes = None, None, dense_bytes
        density = int(weight.count_nonzero()) / weight.numel()
    else:
        n, uniform, blocks = found.n, found.uniform, pattern.kept_blocks(used, found.n)
        kept, density = int(blocks.sum()), float(blocks.mean())
        block_bytes = dense_bytes // blocks.size
        row_pointers = 0 if uniform else len(blocks) + 1
        bsr_bytes = kept * (block_bytes + _INDEX_BYTES) + row_pointers * _INDEX_BYTES
    return LayerSummary(name, kind, tuple(weight.shape), n, density, uniform, macs, dense_bytes, bsr_bytes)


def _occupancy(weight: Tensor) -> np.ndarray:
    """Which kernels [O, I / groups] hold a nonzero."""
    return pattern.occupancy((weight != 0).cpu().numpy())


def _of_place(name: str, place: Place, macs: int | None) -> LayerSummary:
    kind = parametrize.type_before_parametrizations(place.layer).__name__
    return layer_summary(name, kind, weight_of(*place).detach(), getattr(place.layer, "groups", 1), macs)


def _total(layers: Sequence[LayerSummary], field: str) -> int | None:
    counts = [getattr(layer, field) for layer in layers if layer.macs is not None]
    return sum(counts) if counts else None


def _millions(macs: int | None) -> str:
    return "-" if macs is None else f"{macs / 1e6:,.2f} M"


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:,.1f}"
