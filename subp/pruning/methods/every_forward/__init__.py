"""Methods whose masks follow the weights at every forward pass in training (`Method.follow`), not only once an epoch.

What may be imported here is what subp.pruning.methods says.
"""
