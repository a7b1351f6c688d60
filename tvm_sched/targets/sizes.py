"""Sizes in bytes that all targets here share."""

FLOAT = 4  # a number
HALF = 2  # one of half precision
NUMBER_BYTES = {"float64": 8, "float32": FLOAT, "float16": 2, "bfloat16": 2, "int8": 1}  # by type
LINE = 64  # a line of a cache
