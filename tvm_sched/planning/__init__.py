"""What is decided about a network before it is lowered: which kernel each layer runs with, in which form, and how that
is told to the reader.

Pure functions on `kernels.layer.Layer` and `Target`. May import `kernels` and what stands below it; knows no Relax.
"""
