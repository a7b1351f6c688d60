"""What each process of test_distributed.py does."""

import gc
import hashlib
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import forked_ranks
import torch
from torch import nn
from torch.utils.data import TensorDataset

from subp.data import loaders
from subp.pruning.sparsifier import Sparsifier
from subp.sparse_products import choice
from subp.training import trainer
from subp.training.config import Config
from subp.training.distributed import Ranks

CONFIG = Config(n=4, epochs=3, batch_size=8, lr=0.1, hyperparameters={"tau": 1.0}, seed=5, ema=0.5)


def images(count, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=draws), torch.arange(count) % 3


class Net(nn.Module):
    """Without batch norm, so that a batch's gradient does not depend on how it is shared out; a layer is used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.fc(x.mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net()


DATA = loaders.from_tensors(images(32, 0), images(15, 1), list("abc"))


class Damaged(TensorDataset):
    """Some of the images cannot be read: with two ranks of a batch of two, all images that one of them has."""

    def __getitem__(self, index):
        if index in (3, 4, 9, 31):
            raise OSError("truncated")
        return super().__getitem__(index)


DAMAGED = replace(DATA, train=Damaged(*DATA.train.tensors))
SKIPPING = replace(CONFIG, epochs=1, batch_size=2, skip_broken=True)
COMPILING = replace(CONFIG, epochs=2, compile=True, ema=0.0)
SPARSE = replace(CONFIG, epochs=2, soft=False, sparse_compute="kernels")


def digest(tensors):
    return hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors.values())).hexdigest()


def main(rank, folder):
    steps, masks = Sparsifier.step, []

    def step(self, epoch):
        steps(self, epoch)
        masks.append(digest(self.masks))

    Sparsifier.step = step
    forked_ranks.join(rank, folder)
    folder = Path(folder)
    gathered = Ranks(rank, 2, torch.device("cpu")).gather([f"of {rank}"])
    result = trainer.train(DATA, CONFIG, model=net(), output=folder / "run")
    trainer.train(DATA, CONFIG, model=net(), output=folder / "run", resume=True)
    report = {
        "gathered": gathered,
        "masks": masks[:],
        "history": result.history,
        "weights": digest(result.model.state_dict()),
    }
    report["skipping"] = trainer.train(DAMAGED, SKIPPING, model=net()).history
    os.environ["XDG_CACHE_HOME"] = str(folder)
    choice._least = lambda *calls: (1.0, 2.0)  # whatever is faster, kernels compute
    report["kernels"] = trainer.train(DATA, SPARSE, model=net()).history
    torch.compile = partial(torch.compile, backend="aot_eager")  # all of it but the C++ compiler
    report["compiled"] = trainer.train(DATA, COMPILING, model=net()).history
    (folder / f"{rank}.json").write_text(json.dumps(report))
    gc.collect()  # wrappers that outlive the group may keep the process from ending
    torch.distributed.destroy_process_group()
