"""What training (`subp`) and deployment (`tvm_sched`) agree on, and all that they share: the 1xN pattern in a weight's zeros,
the error that a user can mend, and files that are written whole.

Imports NumPy and nothing else, neither half above all.
"""
