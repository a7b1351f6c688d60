"""Passes over the functions that a network calls, each on its own: TensorIR in, TensorIR out, before and after they get
their schedules.
"""
