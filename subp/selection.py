"""Which layers of a model are pruned, and why the others are not."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from subp.errors import UserError
from subp.masking import weight_name, weight_of

PRUNABLE = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)  # of attention the input projection; the other is a Linear


def select_layers(
    model: nn.Module, n: int, exclude: Sequence[str] = (), include: Sequence[str] = ()
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """(layers to prune by name, reason by name of each layer left dense), both in the model's order.

    As the authors do, the stem (first Conv2d), depthwise convolutions and the classifier (last Linear; without any, the
    last layer of all) stay dense; so do layers whose name matches a pattern of `exclude`, and those that blocks of n do
    not fit. Stem or classifier are pruned after all where `include` matches. Raises UserError if nothing is left to
    prune, or if a pattern matches no layer that could be pruned.
    """
    weighted = {name: layer for name, layer in model.named_modules() if _has_matrix(layer)}
    candidates = {name: layer for name, layer in weighted.items() if isinstance(layer, PRUNABLE)}
    if not candidates:
        raise UserError(f"{type(model).__name__} has no Conv2d or Linear layer to prune")
    for pattern in (*exclude, *include):
        if not any(fnmatchcase(name, pattern) for name in candidates):
            raise UserError(
                f"the pattern {pattern!r} matches no Conv2d, Linear or attention layer; "
                f"names are like {next(iter(candidates))!r}"
            )

    uses = Counter(id(parameter) for layer in model.modules() for parameter in layer.parameters(recurse=False))
    roles = _roles(candidates)
    chosen, skipped = {}, {}
    for name, layer in weighted.items():
        reason = _misfit(layer, n, uses) or _choice(name, roles, exclude, include)
        if reason:
            skipped[name] = reason
        else:
            chosen[name] = layer
    if not chosen:
        reasons = "; ".join(f"{name or type(model).__name__}: {skipped[name]}" for name in list(candidates)[:3])
        more = f"; and {len(candidates) - 3} more" if len(candidates) > 3 else ""
        raise UserError(
            f"no layer is left to prune with n = {n} ({reasons}{more}): take another n, or include a layer by name"
        )
    return chosen, skipped


def _has_matrix(layer: nn.Module) -> bool:
    """Whether the layer itself holds a parameter of two or more dimensions, which one could think of pruning."""
    if isinstance(layer, parametrize.ParametrizationList):  # a helper module of the layer that it belongs to
        return False
    return parametrize.is_parametrized(layer) or any(p.ndim > 1 for p in layer.parameters(recurse=False))


def _roles(candidates: dict[str, nn.Module]) -> dict[str, str]:
    convolutions = [name for name, layer in candidates.items() if isinstance(layer, nn.Conv2d)]
    linears = [name for name, layer in candidates.items() if isinstance(layer, nn.Linear)]
    if linears:
        classifier = {linears[-1]: "classifier (last linear layer)"}
    else:
        classifier = {convolutions[-1]: "classifier (last convolution)"}
    return classifier | {name: "stem (first convolution)" for name in convolutions[:1]}


def _misfit(layer: nn.Module, n: int, uses: Counter) -> str | None:
    """Why blocks of n cannot be put on the layer, or None if they can."""
    if not isinstance(layer, PRUNABLE):
        return f"{type(layer).__name__} is not supported"
    if parametrize.is_parametrized(layer):
        return "its weight is parametrized already"
    if weight_name(layer) not in layer._parameters:  # torch.nn.utils.prune, weight_norm and spectral_norm
        return "its weight is computed from other parameters"
    weight = weight_of(layer)
    if weight is None:
        return "its queries, keys and values have a weight each"
    if uses[id(weight)] > 1:
        return "its weight is shared with another layer"
    outputs, groups = weight.shape[0], getattr(layer, "groups", 1)
    if groups > 1 and weight.shape[1] == 1:
        return "depthwise"
    if outputs // groups % n:
        of_group = f" of each of its {groups} groups" if groups > 1 else ""
        return f"{outputs // groups} outputs{of_group} do not divide into blocks of {n}"
    return None


def _choice(name: str, roles: dict[str, str], exclude: Sequence[str], include: Sequence[str]) -> str | None:
    """Why the layer is to stay dense although blocks fit, or None."""
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return f"excluded by {pattern!r}"
    return roles.get(name) if not any(fnmatchcase(name, pattern) for pattern in include) else None
