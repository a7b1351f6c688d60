"""Passes for numbers that are none, and for infinities: what they become is what they become in PyTorch, or NaN
(docs/trust.md).
"""
