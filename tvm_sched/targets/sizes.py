"""Sizes in bytes that all targets here share."""

FLOAT = 4  # a number
LINE = 64  # a line of a cache
