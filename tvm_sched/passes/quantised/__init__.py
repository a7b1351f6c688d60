"""Passes over what is special to quantised networks: pairs of `relax.quantize` and `relax.dequantize`. Relax in, Relax
out; may import what `passes.graph` may, and its tools.
"""
