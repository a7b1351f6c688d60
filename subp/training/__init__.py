"""Training runs: the loop, recipes, several processes, checkpoints, and grids of experiments.

May import subp.pruning, subp.models and subp.data; must not import subp.deployment, subp.cli or tvm_sched.
"""
