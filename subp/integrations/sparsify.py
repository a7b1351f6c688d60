"""`sparsify_`: a Sparsifier on a model, in the shape of torchao's `quantize_` and `sparsify_`.

sparsifier = subp.sparsify_(model, SparsityConfig(Pattern(n=16), Budget(sparsity=0.75), Timetable(epochs=90)))
sparsifier = subp.sparsify_(model, config, lambda layer, name: name.startswith("features"))
"""

import glob
from collections.abc import Callable

from torch import nn

from subp.integrations.configuration import SparsityConfig
from subp.pruning.selection import all_places
from subp.pruning.sparsifier import Sparsifier
from subp_contract.arguments import require_kind
from subp_contract.errors import require

Filter = Callable[[nn.Module, str], bool]


def sparsify_(model: nn.Module, config: SparsityConfig | None = None, filter_fn: Filter | None = None) -> Sparsifier:
    """Puts masks on the model's layers, in place, and returns what moves them on: call its `step(epoch)` before each
    epoch, and `fold()` after the last.

    config:     how to prune; by default SUBP 1x16 at 75 % over 90 epochs
    filter_fn:  (layer, its name) -> whether it may be pruned, asked of every layer of a kind that can be; stem and
                classifier are pruned too where it says so. By default all but these
    Raises UserError as `Sparsifier` does, and where the filter lets no layer through.
    """
    require_kind("model", model, nn.Module, "a torch.nn.Module")
    config = SparsityConfig() if config is None else config
    require_kind("config", config, SparsityConfig, "a subp.SparsityConfig")
    if filter_fn is None:
        return Sparsifier(model, **config.arguments())
    taken = {name: bool(filter_fn(place.layer, name)) for name, place in all_places(model).items()}
    require(any(taken.values()) or not taken, "filter_fn lets no layer through: it is asked (layer, name) of each")
    # Names are matched as patterns.
    include = [glob.escape(name) for name, wanted in taken.items() if wanted]
    exclude = [glob.escape(name) for name, wanted in taken.items() if not wanted]
    return Sparsifier(model, **config.arguments(), include=include, exclude=exclude)
