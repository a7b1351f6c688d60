"""Compiles one network and says whether its numbers are those that are wanted: the same for every suite.

Right is: as many results, of the wanted shapes and dtypes; whole numbers and booleans equal; fractions within
`TOLERANCE` of the largest, of half precision within a few roundings, NaN and infinities at the same places. That
`compile` checks by itself is not relied on, but for the order of equal numbers: PyTorch's own sorting does not keep it.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from coverage_run import one_line
from torch.utils import _pytree as pytree

import tvm_sched

TOLERANCE = 1e-3  # of the largest finite value of a result
ROUNDING = 1e-6  # absolute: what float32 leaves of sums that cancel


def verdict(
    network: Any,
    inputs: Sequence[torch.Tensor],
    wanted: Any,
    describe: Callable[[tvm_sched.Artifact, float], dict] = lambda artifact, cpu_s: {},
) -> dict:
    """The columns 'verdict', 'said' and 'error' for a network (an nn.Module, an ExportedProgram or an .onnx file)
    compiled for `inputs`, whose results must be `wanted` (any structure of tensors), and those that `describe` makes of
    the artifact and of the CPU time of its compilation.
    """
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # single operators may well give the same for every input
            artifact = tvm_sched.compile(network, tuple(inputs), threads=1)
        described = describe(artifact, time.process_time() - started)
        made = artifact(*inputs)
    except tvm_sched.UserError as error:
        return {"verdict": "refused", "said": " ".join(str(error).split()), "error": ""}
    except Exception as error:  # of any kind: that there is none is what a suite finds out
        return {"verdict": "traceback", "said": one_line(error), "error": ""}
    row = compared(made, wanted)
    ties = [note for note in artifact.manifest["check"]["notes"] if "where numbers are equal" in note]
    if row["verdict"] == "wrong" and row["said"].endswith("values differ") and ties:
        row = {"verdict": "right", "said": ties[0], "error": ""}
    return described | row


def compared(made: Any, wanted: Any) -> dict:
    """The columns 'verdict', 'said' and 'error' (largest difference over largest value) of results beside what is
    wanted.
    """
    ours, theirs = pytree.tree_leaves(made), pytree.tree_leaves(wanted)
    if len(ours) != len(theirs):
        return {"verdict": "wrong", "said": f"{len(ours)} results instead of {len(theirs)}", "error": ""}
    largest = 0.0
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        said, error = difference(our, their)
        if said:
            return {"verdict": "wrong", "said": f"result {index}: {said}", "error": f"{error:.2g}" if error else ""}
        largest = max(largest, error)
    return {"verdict": "right", "said": "", "error": f"{largest:.1e}"}


def difference(made: Any, wanted: Any) -> tuple[str, float]:
    """What is wrong with one result ('' if nothing), and its largest difference over the largest value wanted."""
    if isinstance(made, torch.Tensor) or hasattr(made, "__array__"):
        made = torch.as_tensor(made)
    if not isinstance(wanted, torch.Tensor) or not isinstance(made, torch.Tensor):
        same = type(made) is type(wanted) and (made == wanted or made != made)
        return ("" if same else f"{made!r} instead of {wanted!r}"), 0.0
    if made.shape != wanted.shape:
        return f"shape {list(made.shape)} instead of {list(wanted.shape)}", 0.0
    if made.dtype != wanted.dtype:
        return f"{made.dtype} instead of {wanted.dtype}", 0.0
    if not (wanted.is_floating_point() or wanted.is_complex()):
        unequal = int((made != wanted).sum())
        return (f"{unequal} of {made.numel()} values differ" if unequal else ""), 0.0
    eps = torch.finfo(wanted.dtype).eps
    exact = torch.complex128 if wanted.is_complex() else torch.float64
    made, wanted = made.to(exact), wanted.to(exact)
    finite = wanted.isfinite()
    elsewhere = (made != wanted) & ~(made.isnan() & wanted.isnan()) & ~(finite & made.isfinite())
    if elsewhere.any():
        return (
            f"{int(elsewhere.sum())} of {made.numel()} values are not finite where PyTorch's are, or another way",
            0.0,
        )
    if not finite.any():
        return "", 0.0
    tolerance = max(TOLERANCE, 4 * eps)
    largest, error = float(wanted[finite].abs().max()), float((made - wanted)[finite].abs().max())
    share = error / max(largest, ROUNDING)
    return ("" if error <= tolerance * largest + ROUNDING else f"by {share:.2g} of the largest value"), share
