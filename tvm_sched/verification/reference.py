"""What PyTorch computes for a network's inputs, flat lists of arrays in the order of its signature."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from subp_contract.errors import UserError, first_line
from subp_contract.modes import in_eval_mode
from tvm_sched.frontend.torch_export import from_array, to_array
from tvm_sched.signature import Signature, unflatten
from tvm_sched.verification.comparison import compare
from tvm_sched.verification.precise_pairs import PrecisePairs

Network = torch.nn.Module | ExportedProgram


class Reference:
    """A network as its user gave it: run by PyTorch, or asked by its own method `reference(*arrays)` if it has one, as
    networks of another origin have.
    """

    def __init__(self, network: Network, signature: Signature):
        self.network, self.signature = network, signature
        own = getattr(network, "reference", None)
        self.own: Callable | None = None if isinstance(own, torch.nn.Module) else own
        self.name = "PyTorch" if self.own is None else "the file's reference"

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The network's outputs. Raises UserError where it cannot be run."""
        if self.own is not None:
            return [np.asarray(each) for each in pytree.tree_leaves(self.own(*inputs)) if each is not None]
        return self.by_torch(inputs)

    def by_torch(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs of its module in PyTorch."""
        try:
            return [to_array(each) for each in self.run(eager(self.network), list(map(own_tensor, inputs)))]
        except Exception as error:  # of any kind: the network's own code runs
            raise UserError(
                f"PyTorch cannot run this network on {' and '.join(str(list(x.shape)) for x in inputs)}, which the "
                f"compiled one is checked against: {first_line(error)}"
            ) from error

    def first_departure(self, inputs: Sequence[np.ndarray]) -> str:
        """The first operator, in words, by which the network in PyTorch departs from its own reference; empty where
        PyTorch is what answers, or nothing is found.
        """
        find = getattr(self.network, "first_departure", None)
        if self.own is None or find is None:
            return ""
        try:
            return find(inputs, lambda value, expected: compare(value, expected).holds)
        except Exception:  # of any kind: that the network departs is told in any case
            return ""

    def in_type(
        self, inputs: Sequence[np.ndarray], dtype: torch.dtype, noise: int | None = None
    ) -> list[np.ndarray] | None:
        """The outputs with all weights and floating-point inputs in that type; None where that cannot be, or where
        PyTorch is not what answers. In float64 a quantised program computes so what it quantises; `noise`: the seed of
        what this is changed by (`PrecisePairs`).
        """
        if self.own is not None:
            return None
        try:
            network = copy.deepcopy(eager(self.network)).to(dtype)
            tensors = [x.to(dtype) if x.is_floating_point() else x for x in map(own_tensor, inputs)]
            with PrecisePairs(noise) if dtype == torch.float64 else nullcontext():
                return [to_array(each) for each in self.run(network, tensors)]
        except Exception:  # of any kind: the network's own code runs, and it may name its precision
            return None

    def run(self, module: torch.nn.Module, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that a call of the module returns, in the pytree's order."""
        args, kwargs = unflatten(self.signature.input_structure, tensors)
        # An exported program's module is in the mode that it was exported in, and has no other.
        mode = nullcontext() if isinstance(self.network, ExportedProgram) else in_eval_mode(module)
        with torch.no_grad(), mode:
            result = module(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def eager(network: Network) -> torch.nn.Module:
    """The module itself, or the one that an exported program stands for."""
    return network.module(check_guards=False) if isinstance(network, ExportedProgram) else network


def own_tensor(x: np.ndarray) -> torch.Tensor:
    """A tensor of its own memory: networks may write over their inputs."""
    return from_array(np.array(x))
