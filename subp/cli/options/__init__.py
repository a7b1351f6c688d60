"""Options that several commands share, and the types of their values: `types.py` all commands', the others those of one
topic each.

May import what describes settings without PyTorch, so that `--help` is light.
"""
