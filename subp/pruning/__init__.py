"""Uniform 1xN block-sparse training: `Sparsifier`, which holds all state, and below it pure functions on weights and
masks (methods, criteria, scorings, schedules), the budget of a network, and the orders of its channels.

May import subp.common and subp_contract; must not know data sets, training loops, files or tvm_sched.
"""
