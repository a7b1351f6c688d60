"""Every stage is held against PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import tvm_sched
from subp_contract.errors import CheckFailed, UserError
from tvm_sched import Artifact
from tvm_sched.bench.engines import Engine, Network
from tvm_sched.deploy.manifest import relative_to
from tvm_sched.frontend import aten, torch_export
from tvm_sched.frontend.decompositions.table import decomposed
from tvm_sched.signature import check_inputs
from tvm_sched.verification.comparison import compare
from tvm_sched.verification.quantised import allowances

if TYPE_CHECKING:
    import torch

LEAST_COSINE = 0.5  # of an int8 engine's outputs with PyTorch's
TINY = 1e-30  # keeps a quotient of zeros a number


def check(stage: str, output: np.ndarray, expected: np.ndarray, relative: float = 0.0, allowed: float = 0.0) -> float:
    """The maximum absolute error of `output`, of a network whose errors may be that share of the largest number.

    Raises CheckFailed if it is beyond the limit for what is expected, and what is `allowed` beyond that.
    """
    agreement = compare(output, expected, allowed=allowed, relative=relative)
    if not agreement.holds:
        raise CheckFailed(f"{stage} {agreement.words}")
    return agreement.error


def as_program(network: Network) -> "torch.export.ExportedProgram":
    """The network as a program of torch.export, for its example input."""
    import torch

    module = network.module
    if isinstance(module, torch.export.ExportedProgram):
        return module
    return torch_export.export(network.eager, network.only_input())


def allowed_by_rounding(network: Network) -> float:
    """What the output of a network in 8 bits may be off by, as other engines add and round in another order; 0 of one
    that torch.export did not make.
    """
    import torch

    if not isinstance(network.module, torch.fx.GraphModule | torch.export.ExportedProgram):
        return 0.0
    x = network.only_input()
    return allowances(decomposed(as_program(network), aten.CONVERTERS), [x.numpy()])[0]


def engine_check(engine: Engine, stage: str, output: np.ndarray, expected: np.ndarray, allowed: float = 0.0) -> None:
    """As `check`; in int8 an output is taken that points the same way: random weights make a network that quantisation
    changes much.
    """
    if engine.precision != "int8":
        check(stage, output, expected, relative_to(engine.precision, [engine.weights]), allowed)
        return
    cosine = float((output * expected).sum() / (np.linalg.norm(output) * np.linalg.norm(expected) + TINY))
    if not cosine >= LEAST_COSINE:
        raise CheckFailed(f"{stage} differs from PyTorch: the cosine of their outputs is {cosine:.2f}")


def check_written(path: Path, artifact: Artifact) -> None:
    """Raises CheckFailed if the network in the file does not compute what the artifact in memory does, bit for bit.

    Not looked at are an archive, which is not linked, and files that this machine cannot load: those for another CPU or
    C library, or in a folder that is mounted without permission to execute.
    """
    if path.suffix == ".tar":
        return
    try:
        written = tvm_sched.load(path)
    except UserError:
        return
    both = [each.for_few_calls() for each in (artifact, written)]
    for shape in artifact.shapes:
        inputs = check_inputs(shape.signature.inputs, seed=0)
        outputs = zip(*(each.run_flat(inputs) for each in both), strict=True)
        if not all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in outputs):
            raise CheckFailed(f"what was written to {path.name} does not compute what was compiled: is the disk sound?")
