"""Orders of channels that leave a network's function as it is: found by labels carried through the traced graph, chosen
by norms or by kernel masks, folded into the weights.

May import PyTorch, SciPy and subp_contract; must not know methods or the sparsifier.
"""
