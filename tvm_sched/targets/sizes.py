"""Sizes in bytes that all targets here share."""

FLOAT = 4  # a number
BYTES = {"float32": FLOAT, "float16": 2, "bfloat16": 2}  # by the dtype in which weights are stored
LINE = 64  # a line of a cache
