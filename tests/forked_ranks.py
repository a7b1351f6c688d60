"""Two processes of a group, forked: nothing is imported again."""

from collections.abc import Callable
from pathlib import Path

import torch


def run(work: Callable[..., None], folder: Path) -> None:
    """Calls `work(rank, str(folder))` in each of two processes. Where there is an accelerator they are started anew:
    autograd keeps threads for it, which a fork would lose.
    """
    method = "spawn" if torch.accelerator.is_available() else "fork"
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method=method)


def join(rank: int, folder: str) -> None:
    """Makes this process one of the group's two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
