"""A compiled network held against PyTorch before anybody gets it: `check.verified` builds it, runs it on two inputs,
and refuses what departs, naming the first operator that does.

    cases       the inputs of a check, and whether an output that departs there is right all the same
    comparison  outputs against what is expected, the limit of error, weights that make a check blind
    reference   what PyTorch computes, in the network's own precision and in float64
    core        the values of every operator of a program, in PyTorch and in compiled code
    quantised   what rounding in 8 bits may change of an output
    ties        indices and comparisons that rounding may decide either way
    diagnosis   the first operator whose value departs, and where it stands in the user's source
    rounding    the layers whose Winograd rounding the outputs show, which then take a kernel that rounds less

May import everything up to `deploy`; `compiler` calls it.
"""
