"""The pruning methods: one file each, a pure step to a mask; `registry.METHODS` has them by name."""

from subp.pruning.methods.registry import METHODS, Method, Step

__all__ = ["METHODS", "Method", "Step"]
