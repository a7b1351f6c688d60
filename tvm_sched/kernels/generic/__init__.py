"""Schedules for functions that hold no kernel of ours: pools, means, softmax, norms, copies, elementwise chains. Rules
look at what a block does, never at an operator's name.

May import `targets` and `kernels.rewrites`.
"""
