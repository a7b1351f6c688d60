"""Data-parallel training: this process among those that torchrun (or another launcher that sets RANK, WORLD_SIZE and
LOCAL_RANK) started, and the collectives that training needs. In a process alone they do nothing.
"""

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from subp_contract.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """rank: this process's number, from 0, of `count`; device: the one it trains on."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """What one process has of a batch. Raises UserError where it does not divide."""
        if batch_size % self.count:
            raise UserError(f"batch_size = {batch_size} does not divide among {self.count} processes")
        return batch_size // self.count

    def parallel(self, network: nn.Module) -> nn.Module:
        """`network` with its gradients averaged over the processes in every backward pass, and weights as rank 0's."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device] if self.device.type == "cuda" else None)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """`values`, summed over the processes in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, items: list) -> list:
        """The items of all processes, rank 0's first."""
        if self.count == 1:
            return items
        parts: list = [None] * self.count
        dist.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Gives every process rank 0's numbers, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


ALONE = Ranks(0, 1, torch.device("cpu"))


def is_first() -> bool:
    """Whether this process is the first, or the only one, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """This process's place among all. Makes the process group where the caller has not, and takes it down again.

    device: PyTorch's name; "cuda" is the GPU of the process's number on its machine. Raises UserError if it is absent.
    """
    launched = {"RANK", "WORLD_SIZE"} <= os.environ.keys()
    if device == "cuda" and launched:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    own = _device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    ours = launched and not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), own) if dist.is_initialized() else Ranks(0, 1, own)
    finally:
        if ours:
            # A DistributedDataParallel that outlives the group holds its threads, and gloo's cannot end with the
            # interpreter: the process then aborts or hangs. Callers let go of theirs; those in cycles go here.
            gc.collect()
            dist.destroy_process_group()


def _device(name: str) -> torch.device:
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} cannot be used: it is none that PyTorch {torch.__version__} knows, or not on this "
            "machine; give cpu, cuda, cuda:1 or mps"
        ) from error
