"""Which layers of a model are pruned, and why the others are not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from subp.pruning.masking import weight_names, weight_of
from subp_contract.errors import UserError

# Of attention the input projection, the other is a Linear; of recurrent layers the matrices of all gates.
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention, nn.RNNBase)
_GATES = {"LSTM": 4, "GRU": 3}
NARROWEST = 4  # outputs in a block that a layer takes where wider ones do not fit


class Place(NamedTuple):
    """A weight to prune: the layer, and the attribute that holds the weight."""

    layer: nn.Module
    weight: str


def select_layers(
    model: nn.Module, n: int, exclude: Sequence[str] = (), include: Sequence[str] = (), m: int = 1
) -> tuple[dict[str, Place], dict[str, str]]:
    """(places to prune by name, reason by name of each layer left dense), both in the model's order.

    A place has its layer's name; in recurrent layers, which have several, 'rnn.weight_ih_l0' and so on. Blocks of n, or
    narrower ones (`block_size`), must divide a layer's outputs (of a convolution's group, or of a gate), m its inputs.

    As the authors do, the stem (first convolution), depthwise convolutions and the classifier (last linear layer;
    without any, the last layer of all) stay dense; so do layers whose name matches a pattern of `exclude`, and those
    that blocks of n do not fit. Stem or classifier are pruned after all where `include` matches. Raises UserError if
    nothing is left to prune, if a pattern matches no layer that could be pruned, or where lazy layers have not run yet.
    """
    lazy = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, PRUNABLE) and any(map(is_lazy, layer.parameters(recurse=False)))
    ]
    if lazy:
        raise UserError(f"{', '.join(lazy[:3])} has no weight yet: run a batch through the model first")
    weighted = {name: layer for name, layer in model.named_modules() if _has_matrix(layer)}
    candidates = {name: layer for name, layer in weighted.items() if isinstance(layer, PRUNABLE)}
    if not candidates:
        raise UserError(f"{type(model).__name__} has no Conv1d, Conv2d, Linear, attention or recurrent layer to prune")
    known = [place for name, layer in candidates.items() for place in places_of(name, layer)]
    for pattern in (*exclude, *include):
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UserError(
                f"the pattern {pattern!r} matches no Conv1d, Conv2d, Linear, attention or recurrent layer; "
                f"names are like {known[0]!r}"
            )
    uses = Counter(id(parameter) for layer in model.modules() for parameter in layer.parameters(recurse=False))
    roles = _roles(candidates)
    chosen, skipped = {}, {}
    for layer_name, layer in weighted.items():
        if reason := _unsupported(layer):
            skipped[layer_name] = reason
            continue
        for name, place in places_of(layer_name, layer).items():
            if reason := _misfit(place, n, m, uses) or _choice(name, roles, exclude, include):
                skipped[name] = reason
            else:
                chosen[name] = place
    if not chosen:
        reasons = "; ".join(f"{name or type(model).__name__}: {reason}" for name, reason in list(skipped.items())[:3])
        more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        raise UserError(
            f"no layer is left to prune with n = {n} ({reasons}{more}): take another n, or include a layer by name"
        )
    return chosen, skipped


def block_size(place: Place, n: int) -> int | None:
    """The outputs in a block of this weight: the first of `block_sizes` that divides the outputs (of a convolution's
    group, or of a gate). None if none does.

    Mobile networks have layers of 24 or 40 outputs: with n = 16 these take blocks of 8.
    """
    outputs = place_outputs(place)[0]
    return next((size for size in block_sizes(n) if outputs % size == 0), None)


def block_sizes(n: int) -> list[int]:
    """n, half of it, a quarter and so on, down to `NARROWEST`."""
    sizes = [n]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= NARROWEST:
        sizes.append(sizes[-1] // 2)
    return sizes


def place_outputs(place: Place) -> tuple[int, int]:
    """(outputs of a part that blocks must not leave, number of parts): of a convolution's groups, of a recurrent
    layer's gates, or 1.
    """
    layer = place.layer
    parts = _GATES.get(layer.mode, 1) if isinstance(layer, nn.RNNBase) else getattr(layer, "groups", 1)
    return weight_of(*place).shape[0] // parts, parts


def places_of(layer_name: str, layer: nn.Module) -> dict[str, Place]:
    """The weights of a layer that can be pruned, by name: the layer's own, or in recurrent layers one each."""
    if not isinstance(layer, nn.RNNBase):
        return {layer_name: Place(layer, weight_names(layer)[0])}
    return {f"{layer_name}.{weight}".lstrip("."): Place(layer, weight) for weight in weight_names(layer)}


def all_places(model: nn.Module) -> dict[str, Place]:
    """The weights of all of a model's layers of kinds that can be pruned, by name, in the model's order."""
    return {
        name: place
        for layer_name, layer in model.named_modules()
        if isinstance(layer, PRUNABLE)
        for name, place in places_of(layer_name, layer).items()
        if weight_of(*place) is not None  # None: attention with three weights
    }


def parameter_names(model: nn.Module, places: dict[str, Place]) -> dict[str, str]:
    """Place's name -> that of its weight among the model's parameters, before masks are put on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: names[id(weight_of(*place))] for name, place in places.items()}


def _has_matrix(layer: nn.Module) -> bool:
    """Whether the layer itself holds a parameter of two or more dimensions, which one could think of pruning."""
    if isinstance(layer, parametrize.ParametrizationList):  # a helper module of the layer that it belongs to
        return False
    return parametrize.is_parametrized(layer) or any(p.ndim > 1 for p in layer.parameters(recurse=False))


def _roles(candidates: Mapping[str, nn.Module]) -> dict[str, str]:
    convolutions = [name for name, layer in candidates.items() if isinstance(layer, (nn.Conv1d, nn.Conv2d))]
    linears = [name for name, layer in candidates.items() if isinstance(layer, nn.Linear)]
    if linears:
        classifier = {linears[-1]: "classifier (last linear layer)"}
    else:
        classifier = {convolutions[-1]: "classifier (last convolution)"}
    return classifier | dict.fromkeys(convolutions[:1], "stem (first convolution)")


def _unsupported(layer: nn.Module) -> str | None:
    """Why no mask can be put on the layer, or None if one can."""
    if not isinstance(layer, PRUNABLE):
        return f"{type(layer).__name__} is not supported"
    if parametrize.is_parametrized(layer):
        return "its weight is parametrized already"
    if weight_names(layer)[0] not in layer._parameters:  # torch.nn.utils.prune, weight_norm and spectral_norm
        return "its weight is computed from other parameters"
    if weight_of(layer) is None:
        return "its queries, keys and values have a weight each"
    return None


def _misfit(place: Place, n: int, m: int, uses: Counter) -> str | None:
    """Why blocks of n outputs, or groups of m inputs, cannot be put on the weight, or None if they can."""
    layer, weight = place.layer, weight_of(*place)
    if uses[id(weight)] > 1:
        return "its weight is shared with another layer"
    inputs, groups = weight.shape[1], getattr(layer, "groups", 1)
    if groups > 1 and inputs == 1:
        return "depthwise"
    if block_size(place, n) is None:
        outputs, parts = place_outputs(place)
        of_part = "" if parts == 1 else f" of each of its {parts} {'groups' if groups > 1 else 'gates'}"
        return f"{outputs} outputs{of_part} do not divide into blocks of {' or '.join(map(str, block_sizes(n)))}"
    if inputs % m:
        return f"{inputs} inputs do not divide into groups of {m}"
    return None


def _choice(name: str, roles: dict[str, str], exclude: Sequence[str], include: Sequence[str]) -> str | None:
    """Why the layer is to stay dense although blocks fit, or None."""
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return f"excluded by {pattern!r}"
    return roles.get(name) if not any(fnmatchcase(name, pattern) for pattern in include) else None
