"""Sizes in bytes that all targets here share."""

FLOAT32 = "float32"
FLOAT = 4  # a number
HALF = 2  # one of half precision
NUMBER_BYTES = {"float64": 8, FLOAT32: FLOAT, "float16": HALF, "bfloat16": 2, "int8": 1}  # by type
NARROW = ("float16", "bfloat16")  # types in which weights of float32 layers may be stored
LINE = 64  # a line of a cache
