"""Methods that choose masks anew at every epoch's step, until the schedule ends: by weights, by gradients, by phases.

What may be imported here is what subp.pruning.methods says.
"""
