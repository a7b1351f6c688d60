"""Convolutions of 8-bit integers over 1xN blocks, sums in int32, and of bfloat16, sums in float32: planar activations
(channels outside, pixels inside), lanes over pixels.

`dots.py`: the dot products of short vectors that CPUs have; `interleave.py`: what they read, made of planes;
`planar/planes.py`: how an image lies in them. One file a kernel, as above.
"""
