"""Masked layers that leave their pruned blocks out of a training step's products, on a CPU: forward, gradient of the
input, gradient of the weight.

    sparse_compute.attach(model)            # layers with block masks compute by kernels where these are faster
    sparse_compute.prepare(model, images)   # builds, side by side, what steps on such images will ask for
    sparse_compute.detach(model)            # as their classes do again

For convolutions and linear layers in float32 (or float64) whose block rows keep equally many blocks, whatever the
method; for depthwise convolutions, which no method prunes, as blocks of which all are kept, and for batch norms in
training: of both PyTorch's own are slow.
Masks may change at any time. Where the mask lets gradients through to pruned blocks (soft training, methods that regrow
by gradients) the weight's gradient is PyTorch's own, of all blocks. What each layer does is chosen when it first trains
at a size (subp/sparse_products/choice.py), and `computation` tells; an evaluation, in which nothing wants a gradient,
computes by kernels what training has asked for at that size, and all else densely. docs/sparse_training.md says what is
gained.
"""

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from subp.pruning import masking
from subp.pruning.settings import WAYS
from subp_contract.errors import require
from subp_contract.modes import in_eval_mode

if TYPE_CHECKING:
    from subp.sparse_products.choice import Norm, Problem

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


@torch.no_grad()
def prepare(model: nn.Module, images: Tensor, tell: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Builds what training steps on such images [B, ...] will ask for, on all cores, and not layer by layer as they
    come: what this machine has built before is there. `tell` hears how many of how many functions are built.

    The first image passes through the model, in evaluation mode; what only training computes is built when it comes.
    """
    from subp.sparse_products import choice

    seen: list[tuple[nn.Module, tuple[int, ...], torch.dtype]] = []

    def see(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim:
            shape = inputs[0].shape
            seen.append((layer, (shape[0] * len(images), *shape[1:]), inputs[0].dtype))

    hooks = [layer.register_forward_pre_hook(see) for layer in _attached(model)]
    try:
        with in_eval_mode(model):
            model(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    asked = [_asked(*each) for each in seen]
    choice.build([problem for problem in asked if not isinstance(problem, str)], tell)


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


def _geometry(layer: nn.Conv2d) -> tuple[tuple[int, ...], ...]:
    """Stride, padding, dilation."""
    padding = _padding(layer)
    assert padding is not None  # it suited
    return layer.stride, padding, layer.dilation


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
    """The parameter, with the weights of pruned blocks."""
    return masking.trained_weight(layer) if parametrize.is_parametrized(layer) else layer.weight  # type: ignore


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


def _asked(layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> "Problem | Norm | str":
    """What the layer computes of such an input; or why it computes densely, whatever is faster."""
    from subp.sparse_products import batch_norm, linear, operator

    norm = isinstance(layer, nn.BatchNorm2d)
    if not (norm or _depthwise(layer) or masking.masked_weights(layer) == ["weight"]):
        return "it is not masked any more"
    weight = _trained(layer)
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64) or dtype != weight.dtype:
        return "only for float32 on a CPU"
    if norm:
        few = len(shape) != 4 or prod(shape) <= shape[1]
        return "there is nothing to normalise by" if few else batch_norm.norm_of(shape, dtype)
    index = _index(layer)
    if index is None:
        return "its rows keep unequally many blocks"
    if isinstance(layer, nn.Linear):
        rows = prod(shape[:-1])
        if rows < LEAST_ROWS:
            return f"only from {LEAST_ROWS} rows on"
        return linear.problem_of(rows, weight.shape[1], weight.shape[0], index, weight.dtype)
    assert isinstance(layer, nn.Conv2d)
    if len(shape) != 4:
        return "only for batches of images"
    return operator.problem_of(shape, weight, index, _geometry(layer), layer.groups)


def _chosen(layer: nn.Module, x: Tensor) -> tuple[tuple[bool, ...], Tensor | None]:
    """(Which products leave the zeros out, the inputs that are kept), which the layer tells from here on. In an
    evaluation it is what training has chosen at this size.
    """
    from subp.sparse_products import choice

    norm = isinstance(layer, nn.BatchNorm2d)
    casts = torch.is_autocast_enabled("cpu") and not norm
    asked: Any = _asked(layer, tuple(x.shape), _trained(layer).dtype if casts else x.dtype)
    training, index = torch.is_grad_enabled(), _state(layer).index
    if isinstance(asked, str):
        chosen = choice.Choice(why=asked)
    elif norm:
        chosen = choice.choose_norm(asked, measure=training)
    else:
        assert index is not None
        chosen = choice.choose(asked, index.shape[1], soft=_soft(layer), measure=training)
    if training:
        converted = any(chosen.sparse) and not x.is_contiguous() and x.ndim == 4
        _state(layer).told = f"{chosen}{', in float32' * casts}{', of a contiguous copy' * converted}"
    return chosen.sparse, index


def _densely(layer: nn.Module, x: Tensor) -> Tensor:
    own: Any = _class(layer)
    return own.forward(layer, x)


def _conv2d(layer: nn.Conv2d, x: Tensor) -> Tensor:
    from subp.sparse_products import choice, operator

    sparse, index = choice.unseen(_chosen, layer, x)
    if not any(sparse):
        return _densely(layer, x)
    y = operator.block_conv2d(x, _weight(layer, sparse), index, *_geometry(layer), layer.groups, sparse)
    return y if layer.bias is None else y + layer.bias[:, None, None]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    from subp.sparse_products import choice, linear

    sparse, index = choice.unseen(_chosen, layer, x)
    if not any(sparse):
        return _densely(layer, x)
    y = linear.block_linear(x, _weight(layer, sparse), index, sparse)
    return y if layer.bias is None else y + layer.bias


def _batch_norm(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    from subp.sparse_products import batch_norm, choice

    if not layer.training or not any(choice.unseen(_chosen, layer, x)[0]):
        return _densely(layer, x)
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
