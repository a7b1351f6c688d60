"""What several commands share: options and the types of their values, and the terminal. `types.py` and `terminal.py`
hold all commands', the others those of one topic each.

May import what describes settings without PyTorch, so that `--help` is light.
"""
