"""Measures a target's `Costs` on this machine: small problems for the kernels (`workloads`), how each figure follows
from their cycles (`probes`), and the running of it all (`measuring`).

May import all other folders of `tvm_sched`.
"""
