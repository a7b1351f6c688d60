"""Every stage is held against PyTorch."""

import numpy as np

from subp_contract.errors import CheckFailed
from tvm_sched.deploy.manifest import error_limit


def check(stage: str, output: np.ndarray, expected: np.ndarray) -> float:
    """The maximum absolute error of `output`.

    Raises CheckFailed if it is beyond the limit for what is expected.
    """
    if output.shape != expected.shape:
        raise CheckFailed(f"{stage} gives an output of {list(output.shape)}, PyTorch one of {list(expected.shape)}")
    error = float(np.abs(output - expected).max())
    limit = error_limit(expected)
    if not error <= limit:  # NaN included
        raise CheckFailed(f"{stage} differs from PyTorch by {error:.2e}, more than {limit:.2e}")
    return error
