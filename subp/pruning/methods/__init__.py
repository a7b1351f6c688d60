"""The pruning methods, one file each in the folder that says how often masks are chosen: a pure step from a weight to a
mask, its hyperparameters, and `METHOD`, which describes it; `registry.METHODS` has them by name.

May import `criteria`, `schedules`, `block_masks` and `hyperparameters` of subp.pruning; must not import the sparsifier,
nor anything of PyTorch before a step is called.
"""

from subp.pruning.hyperparameters import Hyperparameters, hyperparameter
from subp.pruning.methods.base import Method, MethodStep
from subp.pruning.methods.registry import DEFAULT, DENSE, METHODS, register

__all__ = ["DEFAULT", "DENSE", "METHODS", "Hyperparameters", "Method", "MethodStep", "hyperparameter", "register"]
