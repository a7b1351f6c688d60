"""Masked layers that leave their pruned blocks out of a training step's products, on a CPU: forward, gradient of the
input, gradient of the weight.

    sparse_compute.attach(model)      # layers with block masks compute by kernels where these are faster
    sparse_compute.detach(model)      # as their classes do again

For convolutions and linear layers in float32 (or float64) whose block rows keep equally many blocks, whatever the
method; for depthwise convolutions, which no method prunes, as blocks of which all are kept, and for batch norms in
training: of both PyTorch's own are slow.
Masks may change at any time. Where the mask lets gradients through to pruned blocks (soft training, methods that regrow
by gradients) the weight's gradient is PyTorch's own, of all blocks. What each layer does is chosen when it first runs
at a size (subp/sparse_products/choice.py), and `computation` tells. docs/sparse_training.md says what is gained.
"""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.pruning import masking
from subp.pruning.settings import WAYS
from subp_contract.errors import require

LEAST_ROWS = 64  # of a linear layer's input


@dataclass
class _State:
    """Of a layer: the kept inputs [G, K], of the mask as it was at `version`, None while rows keep unequally many; and
    how it computed last.
    """

    version: int = -1
    index: Tensor | None = None
    told: str = "not run yet"

    def __reduce__(self) -> tuple:
        """A copy knows nothing yet: its mask is another one."""
        return _State, ()


def attach(model: nn.Module, way: str = WAYS[0]) -> int:
    """Lets the layers that this is for compute so, until `detach`. Returns how many of them are masked. Raises
    UserError for another way than WAYS.
    """
    require(way in WAYS, f"sparse_compute is one of {', '.join(WAYS)}, not {way!r}")
    suited = [layer for layer in model.modules() if _suits(layer)]
    for layer in suited:
        forward: Any = {nn.Linear: _linear, nn.BatchNorm2d: _batch_norm}.get(_class(layer), _conv2d)
        layer.forward = types.MethodType(forward, layer)
        layer._sparse_compute = _State()  # type: ignore[assignment]
    return sum(parametrize.is_parametrized(layer) for layer in suited)


def detach(model: nn.Module) -> None:
    """Every layer of the model computes as its class does again."""
    for layer in _attached(model):
        del layer.forward, layer._sparse_compute


def computation(model: nn.Module) -> dict[int, str]:
    """id of each attached layer -> how it computed last, in words."""
    return {id(layer): _state(layer).told for layer in _attached(model)}


def _attached(model: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in model.modules() if "_sparse_compute" in vars(layer))


def _state(layer: nn.Module) -> _State:
    state = vars(layer)["_sparse_compute"]
    assert isinstance(state, _State)
    return state


def _suits(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d) and _padding(layer) is None:
        return False
    if _depthwise(layer) or (_class(layer) is nn.BatchNorm2d and layer.affine):
        return True
    if not isinstance(layer, (nn.Conv2d, nn.Linear)) or masking.masked_weights(layer) != ["weight"]:
        return False
    mask, (outputs, inputs, *_) = masking.mask_of(layer).mask, masking.trained_weight(layer).shape
    return mask.ndim == 2 and mask.shape[1] == inputs and outputs % mask.shape[0] == 0


def _class(layer: nn.Module) -> type:
    """As it is without masks."""
    return parametrize.type_before_parametrizations(layer)


def _depthwise(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d) or parametrize.is_parametrized(layer):
        return False
    return layer.groups == layer.in_channels > 1


def _padding(layer: nn.Conv2d) -> tuple[int, ...] | None:
    """On each side, rows and columns; None where sides differ, or are padded with something else than zeros."""
    if layer.padding_mode != "zeros":
        return None
    if not isinstance(layer.padding, str):
        return layer.padding
    if layer.padding == "valid":
        return 0, 0
    around = [spread * (taps - 1) for spread, taps in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(total % 2 for total in around) else tuple(total // 2 for total in around)


def _index(layer: nn.Module) -> Tensor | None:
    """The inputs that each block row keeps, [G, K] int32, sorted; None where rows differ in their number."""
    state = _state(layer)
    if _depthwise(layer):
        if state.index is None:
            state.index = torch.zeros(_trained(layer).shape[0], 1, dtype=torch.int32)
        return state.index
    parametrization = masking.mask_of(layer)
    if parametrization.follow:
        masking.weight_of(layer)  # chooses the mask anew
    mask = parametrization.mask
    if state.version != mask._version:
        kept = mask.sum(1)
        uniform = bool((kept == kept[0]).all())
        state.index = mask.nonzero()[:, 1].view(len(mask), -1).int() if uniform else None
        state.version = mask._version
    return state.index


def _trained(layer: nn.Module) -> Tensor:
    return layer.weight if _depthwise(layer) else masking.trained_weight(layer)  # type: ignore[return-value]


def _soft(layer: nn.Module) -> bool:
    """Whether the gradient of pruned blocks is wanted."""
    if _depthwise(layer):
        return False
    mask = masking.mask_of(layer)
    return mask.soft or mask.gradient is not None


def _weight(layer: nn.Module, sparse: tuple[bool, ...]) -> Tensor:
    """What the products take: the trained weight itself where none of them reads its pruned blocks and the mask would
    change no gradient, which saves two passes over it.
    """
    if _depthwise(layer):
        return _trained(layer)
    mask = masking.mask_of(layer)
    reads = not all(sparse[:2]) or not (mask.soft or sparse[2])
    if reads or mask.follow or mask.gradient is not None or (mask.soft and mask.decay):
        return masking.weight_of(layer)
    return _trained(layer)


def _dense(layer: nn.Module, x: Tensor, why: str) -> Tensor:
    _state(layer).told = f"dense: {why}"
    own: Any = _class(layer)
    return own.forward(layer, x)


def _conv2d(layer: nn.Conv2d, x: Tensor) -> Tensor:
    from subp.sparse_products import choice, operator

    if not _suits(layer):
        return _dense(layer, x, "it is not masked any more")
    weight, index = _trained(layer), _index(layer)
    if index is None:
        return _dense(layer, x, "its rows keep unequally many blocks")
    if x.ndim != 4 or x.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return _dense(layer, x, "only for float32 and batches of images on a CPU")
    geometry = layer.stride, _padding(layer), layer.dilation
    problem = operator.problem_of(x, weight, index, geometry, layer.groups)  # type: ignore[arg-type]
    chosen = choice.choose(problem, index.shape[1])
    if not any(chosen.sparse):
        return _dense(layer, x, str(chosen).removeprefix("dense: "))
    _state(layer).told = str(chosen)
    y = operator.block_conv2d(
        x, _weight(layer, chosen.sparse), index, *geometry, layer.groups, chosen.sparse, _soft(layer)
    )
    return y if layer.bias is None else y + layer.bias[:, None, None]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    from subp.sparse_products import choice, operator

    if not _suits(layer):
        return _dense(layer, x, "it is not masked any more")
    weight, index = _trained(layer), _index(layer)
    rows = x.numel() // max(1, x.shape[-1])
    if index is None:
        return _dense(layer, x, "its rows keep unequally many blocks")
    if rows < LEAST_ROWS or x.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return _dense(layer, x, f"only for float32 on a CPU, and from {LEAST_ROWS} rows on")
    problem = choice.rows_problem(rows, weight, weight.shape[0] // index.shape[0])
    chosen = choice.choose(problem, index.shape[1], linear=True)
    if not any(chosen.sparse):
        return _dense(layer, x, str(chosen).removeprefix("dense: "))
    _state(layer).told = str(chosen)
    planes = x.reshape(problem.batch, -1, x.shape[-1]).transpose(1, 2).unsqueeze(2)  # [B, I, 1, rows]
    weight = _weight(layer, chosen.sparse)[:, :, None, None]
    y = operator.block_conv2d(planes, weight, index, (1, 1), (0, 0), (1, 1), 1, chosen.sparse, _soft(layer))
    y = y.squeeze(2).transpose(1, 2).reshape(*x.shape[:-1], -1)
    return y if layer.bias is None else y + layer.bias


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    from subp.sparse_products import batch_norm, choice

    own = layer.weight.dtype
    if not layer.training or x.ndim != 4 or x.device.type != "cpu" or own not in (torch.float32, torch.float64):
        return _dense(layer, x, "only for float32 and batches of images on a CPU, in training")
    if x.dtype != own or x.numel() <= x.shape[1]:
        return _dense(layer, x, "there is nothing to normalise by")
    chosen = choice.choose_norm(x)
    if not any(chosen.sparse):
        return _dense(layer, x, "faster")
    _state(layer).told = str(chosen)
    y, mean, variance = batch_norm.batch_norm(x, layer.weight, layer.bias, layer.eps)
    if layer.track_running_stats:
        _move_statistics(layer, mean, variance, x.numel() // x.shape[1])
    return y


@torch.no_grad()
def _move_statistics(layer: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Running averages, as nn.BatchNorm2d keeps them: of the unbiased variance of `count` numbers."""
    assert layer.num_batches_tracked is not None and layer.running_mean is not None and layer.running_var is not None
    layer.num_batches_tracked.add_(1)
    share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, share)
    layer.running_var.lerp_(variance * (count / (count - 1)), share)
