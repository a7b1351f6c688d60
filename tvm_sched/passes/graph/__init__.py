"""Passes over the network as a graph of operators, and then of calls of functions: Relax in, Relax out.

A pass keeps the names of layers (`layer_names`).
"""
