"""Every stage is held against PyTorch."""

from typing import TYPE_CHECKING

import numpy as np

from subp_contract.errors import CheckFailed
from tvm_sched.deploy.manifest import error_limit

if TYPE_CHECKING:
    from tvm_sched import Artifact


def check_artifact(stage: str, artifact: "Artifact") -> float:
    """The maximum absolute error of an artifact's outputs on its own check. Raises CheckFailed as `check` does."""
    errors = artifact.errors()
    for spec, error, limit in errors:
        if not error <= limit:
            raise CheckFailed(f"{stage} differs from PyTorch by {error:.2e} in '{spec.name}', more than {limit:.2e}")
    return max(error for _, error, _ in errors)


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
