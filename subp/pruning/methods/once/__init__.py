"""Methods whose masks are chosen once, at the schedule's beginning, and stay: by lot, or by the weights of a trained
network.

What may be imported here is what subp.pruning.methods says.
"""
