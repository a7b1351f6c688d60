"""What training (`subp`) and deployment (`tvm_sched`) agree on, and all that they share: the 1xN pattern in a weight's
zeros, the error that a user can mend, files that are written whole and read if they are files, JSON checked by a
schema, processes that serve a connection, and a module in evaluation mode for a while.

May import NumPy and msgspec and nothing else; must not import either half, nor PyTorch, nor TVM.
"""
