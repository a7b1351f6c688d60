"""SUBP: soft uniform 1xN block pruning of PyTorch networks, from scratch (NeurIPS 2023, arXiv 2310.06218).

    sparsifier = subp.Sparsifier(model, n=16, sparsity=0.75, epochs=90)
    for epoch in range(90):
        sparsifier.step(epoch)          # prune and regrow
        train_one_epoch(model, ...)     # your own loop
    model = sparsifier.fold()           # plain modules, zeros in place

`sparsify_(model, config, filter_fn)` makes one in torchao's shape. Names are imported on first use, so that
`import subp` costs nothing.
"""

import importlib
from typing import Any

_HOME = {
    "Sparsifier": "subp.pruning.sparsifier",
    "sparsify_": "subp.integrations.sparsify",
    "Budget": "subp.integrations.configuration",
    "Choice": "subp.integrations.configuration",
    "Pattern": "subp.integrations.configuration",
    "SparsityConfig": "subp.integrations.configuration",
    "Timetable": "subp.integrations.configuration",
    "fold": "subp.pruning.masking",
    "load_model": "subp.training.checkpoint",
    "inspect": "subp.pruning.summary",
    "Error": "subp_contract.errors",
    "UserError": "subp_contract.errors",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from subp_contract.distribution import VERSION

        return VERSION
    if name not in _HOME:
        raise AttributeError(f"module 'subp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
