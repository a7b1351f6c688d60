"""Kernels of 8-bit integers over planar activations: channels outside, pixels inside, lanes over pixels."""
