"""Judges a whole network of random weights: dense or with a random uniform 1xN mask, scaled so that an error made
anywhere is seen in the outputs.

Columns of a network's row: size (of the image, in pixels), n and sparsity (of the mask, on all but stem and classifier;
empty where the network was left dense), sparse (layers that skip blocks), layers (convolutions and linear layers),
error (over the largest output), moved (how far outputs differ from those for another image, over the largest: near 0
would mean that the outputs tell nothing), compile_s (CPU time, export and check included), peak_gib (of the whole
process), verdict and said (`scripts/coverage_run.py`).
"""

import resource
import warnings
from collections.abc import Callable
from typing import Any

import coverage_verdict
import torch
from torch import nn
from torch.utils import _pytree as pytree

import tvm_sched
from subp.deployment.random_networks import randomise
from subp_contract.errors import UserError

COLUMNS = ("size", "n", "sparsity", "sparse", "layers", "error", "moved", "compile_s", "peak_gib", "verdict", "said")
AMPLIFIED = 2.0  # how many times PyTorch's own distance from float64 a network may be away that magnifies rounding
SEEN = 1e-2  # `moved` of outputs that tell something


def judged(make: Callable[[], nn.Module], sizes: list[int], n: int, sparsity: float) -> dict:
    """The row of the network that `make` makes, for images of the first of `sizes` that it takes."""
    torch.manual_seed(0)
    for size in sizes:
        module, images = make(), torch.randn(2, 3, size, size)
        try:
            row = {"size": size} | randomised(module, images, n, sparsity)
            wanted, other = outputs(module, images[:1]), outputs(module, images[1:])
            break
        except Exception:  # of any kind: the network's own
            if size == sizes[-1]:
                raise
    row["moved"] = f"{moved(wanted, other):.2g}"
    row |= coverage_verdict.verdict(module, (images[:1],), wanted, described)
    row["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    if row["verdict"] == "wrong" and row["error"]:
        own = rounding(module, images[:1], wanted)
        row["said"] += f"; PyTorch itself is {own:.2g} from float64"
        if float(row["error"]) <= AMPLIFIED * own:
            row["verdict"] = "right"
    if row["verdict"] == "right" and float(row["moved"]) < SEEN:
        row |= {"verdict": "blind", "said": "the outputs do not depend on the image, so they show nothing"}
    return row


def described(artifact: tvm_sched.Artifact, cpu_s: float) -> dict:
    """What the artifact tells."""
    layers = artifact.explain()
    skipping = sum(0 < layer.kept < layer.total for layer in layers if layer.n)
    return {"sparse": skipping, "layers": len(layers), "compile_s": round(cpu_s, 1)}


def randomised(module: nn.Module, images: torch.Tensor, n: int, sparsity: float) -> dict:
    """Gives a network its mask, where it has layers for one, and its scale, and returns which mask."""
    try:
        randomise(module, images, n=n, sparsity=sparsity, seed=0)
    except UserError:
        randomise(module, images, n=n, sparsity=0.0, seed=0)
        return {}
    return {"n": n, "sparsity": sparsity} if sparsity else {}


def outputs(module: nn.Module, image: torch.Tensor) -> Any:
    """What PyTorch computes."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module.eval()(image)


def moved(made: Any, other: Any) -> float:
    """The largest difference between two results, over the largest value; of several, the least."""
    pairs = zip(pytree.tree_leaves(made), pytree.tree_leaves(other), strict=True)
    return min(float((a - b).abs().max() / a.abs().max()) for a, b in pairs if a.is_floating_point())


def rounding(module: nn.Module, image: torch.Tensor, made: Any) -> float:
    """What float32 alone does to PyTorch's results, over the largest: deep random networks amplify the last bits."""
    exact = outputs(module.double(), image.double())
    pairs = zip(pytree.tree_leaves(made), pytree.tree_leaves(exact), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
