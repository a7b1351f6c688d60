"""One file a kernel: the compute, the schedule as rewrites with named knobs, and the knobs' values worth trying, best
guess first.
"""
