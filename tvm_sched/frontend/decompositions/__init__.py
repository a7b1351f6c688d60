"""PyTorch's operators written in simpler ones, in PyTorch: its own table, and what it lacks: recurrent layers over
their steps, sampling. Nothing here knows of TVM.
"""
