"""The pruning methods, one file each: pure steps from scores to a mask."""

from subp.methods import subp

METHODS = {"subp": subp.step}
