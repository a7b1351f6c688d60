"""Weights of 16 bits: which layers may store theirs so, and what that does to the outputs.

    float16     11 bits, numbers from 6e-5 to 65504: relative error of a sum 2e-4
    bfloat16     8 bits, the range of float32:                               2e-3

both by root mean square, of random weights; twice as much by Winograd's F(2,3), ten times by F(4,3), whose transforms
magnify it (`Form.rounding`).
"""

import ml_dtypes
import numpy as np

from subp_contract.errors import UserError
from tvm_sched.kernels.base import dtype_named
from tvm_sched.targets.sizes import FLOAT32, NARROW

# What Winograd's transforms may make of a weight: by the rows of the variants' matrices at most 2.25 times as much, and
# a typical one a thirtieth.
LARGER, SMALLER = 4.0, 2.0**-5
# Of the root mean square: as much as the largest error of a number, five times what rounding takes of random ones.
LOST = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
LEAST = 4096  # bytes of a layer's weights: less is next to nothing of a file, and is read from the first cache


def require_known(weights: str, precision: str = FLOAT32) -> None:
    """Raises UserError for a word that names no dtype of weights, or none that goes with the network's precision."""
    if weights not in (known := (FLOAT32, *NARROW)):
        raise UserError(f"weights are stored as {', '.join(known)}, not as '{weights}'")
    if weights != FLOAT32 and precision != FLOAT32:
        raise UserError(
            f"weights of {weights} are for networks that compute in float32, and precision {precision} stores its own: "
            "leave out one of the two"
        )


def stored_types(weight: np.ndarray, wanted: str) -> tuple[str | None, ...]:
    """The dtypes in which a layer may store `weight`: its own (None), and the one that is wanted where there is
    something to gain and it `holds` the numbers.
    """
    fits = wanted != FLOAT32 and matters(weight) and holds(weight, wanted)
    return (None, wanted) if fits else (None,)


def matters(weight: np.ndarray) -> bool:
    """Whether a layer with this weight has something to gain."""
    return weight.dtype == FLOAT32 and weight.nbytes > LEAST


def left_out(weight: np.ndarray, wanted: str) -> str:
    """Why a layer must keep its weights as they are, for the reader; empty where it need not."""
    unfit = wanted != FLOAT32 and matters(weight) and not holds(weight, wanted)
    return f"{wanted} does not hold its weights" if unfit else ""


def holds(weight: np.ndarray, dtype: str) -> bool:
    """Whether numbers of that dtype stand for the weight, and for what Winograd's transforms make of it: none is out of
    its range, and not so many are below its least that more is lost than by rounding.
    """
    if not np.abs(weight).max() * LARGER <= float(ml_dtypes.finfo(dtype_named(dtype)).max):  # nor where one is NaN
        return False
    small = weight * np.float32(SMALLER)
    lost = np.linalg.norm(small - small.astype(dtype_named(dtype)).astype("float32"))
    return bool(lost <= LOST[dtype] * np.linalg.norm(small))
