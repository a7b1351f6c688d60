"""Every worker computes on one thread: the workers share the cores, and timings and sums then do not depend on how many
there are.
"""

import os

for variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS"):  # before anything imports torch or tvm
    os.environ[variable] = "1"
