"""Passes on Relax modules that give a network other numbers: one file a precision; `tvm_sched/precision.py` says which
word asks for which. May import `passes.graph`.
"""
