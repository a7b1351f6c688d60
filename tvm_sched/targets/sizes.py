"""Sizes in bytes that all targets here share."""

FLOAT32 = "float32"
FLOAT = 4  # a number
BYTES = {FLOAT32: FLOAT, "float16": 2, "bfloat16": 2}  # by the dtype in which weights are stored
LINE = 64  # a line of a cache
