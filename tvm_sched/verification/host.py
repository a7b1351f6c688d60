"""Runs a built network on this machine, one for another CPU too."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from subp_contract.errors import UserError
from tvm_sched import pipeline, targets
from tvm_sched.deploy.artifact import Artifact
from tvm_sched.deploy.manifest import make_manifest
from tvm_sched.frontend.torch_export import Imported
from tvm_sched.pipeline import Built, Compilation
from tvm_sched.targets import Target


def runner(built: Built, imported: Imported, compilation: Compilation) -> Callable[[Sequence], list[np.ndarray]]:
    """What computes the network's outputs, flat lists both, as its artifact does; of a network for another CPU the same
    scheduled functions in this machine's instructions. `unable` must not object.
    """
    here, executable = for_here(compilation), built.executable
    if here.target != compilation.target:
        executable = pipeline.build(built.lowered.mod, here)
    word = compilation.precision.word
    manifest = make_manifest(here.target, imported, built, check={}, dense=compilation.dense, precision=word)
    return Artifact(executable, manifest).for_few_calls().run_flat


def for_here(compilation: Compilation) -> Compilation:
    """The same, not shown to anybody, for a target that this machine runs."""
    return replace(compilation, target=stand_in(compilation.target), observe=None)


def stand_in(target: Target) -> Target:
    """The target, or one that does as it does on this machine. Raises UserError where there is none."""
    return target if targets.runs_here(target) else targets.on_this_machine(target)


def unable(target: Target) -> str:
    """Why this machine can run no code that is made for the target, or as for it; empty if it can."""
    try:
        stand_in(target)
    except UserError as error:
        return str(error)
    return ""
