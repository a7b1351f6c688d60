"""Measuring compiled networks: beside other engines, step by step, against the machine's own peak, in suites, which are
JSON files (`suites/`).

May import everything else of `tvm_sched`; nothing there imports this.
"""
