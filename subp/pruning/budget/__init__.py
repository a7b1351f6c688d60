"""What a pruned network may cost, and the sparsity of each layer that meets it: multiply-accumulates counted, shares of
layers by an allocation, bisection to the limit.

May import masking, selection and settings of subp.pruning; must not know methods or the sparsifier.
"""
