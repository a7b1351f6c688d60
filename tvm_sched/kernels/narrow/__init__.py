"""Kernels for blocks narrower than a vector, whose lanes over N would leave most of it unused: lanes over pixels, of
which each weight serves a vector, or over N and a few pixels, side by side.

May import what `kernels` may, and the modules beside `kernels/__init__.py`.
"""
