"""Runs a script as on a board, where there is no PyTorch: without it TVM starts in a third of the time.

python tests/without_pytorch.py SCRIPT ARGUMENTS...
"""

import runpy
import sys

if __name__ == "__main__":
    sys.modules["torch"] = None
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
