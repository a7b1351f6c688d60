"""A run for test_killed.py, killed again and again: the training is forked, and the fork is killed (SIGKILL)."""

import os
import random
import signal
import time

import torch
from torch import nn

from subp.data import loaders
from subp.training import checkpoint, trainer
from subp.training.config import Config

CONFIG = Config(
    n=4,
    epochs=40,
    batch_size=8,
    lr=0.1,
    hyperparameters={"tau": 1.0},
    ema=0.9,
    amp="fp16",
    warmup_epochs=2,
    mixup=0.2,
    cutmix=1.0,
    seed=1,
)
KILLS = 12


def images(count, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 8, 8, generator=draws), torch.arange(count) % 3


def train(folder, resume):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    loaded = loaders.from_tensors(images(32, 0), images(9, 1), list("abc"))
    trainer.train(loaded, CONFIG, model=model, output=folder, resume=resume)


def fork(folder):
    resume = (folder / trainer.CHECKPOINT).exists()
    child = os.fork()
    if child == 0:
        try:
            train(folder, resume)
            os._exit(0)
        finally:
            os._exit(1)
    return child


def run(folder, seed):
    """The epochs after which pieces of the run ended, and the last one's exit code. In `whole` is an uninterrupted run,
    in `parts` the other.
    """
    started = time.monotonic()
    train(folder / "whole", resume=False)
    piece = (time.monotonic() - started) / KILLS
    draws, ended = random.Random(seed), []
    while len(ended) < KILLS or len(set(ended)) == 1:  # more on a machine that became slower
        child = fork(folder / "parts")
        time.sleep(draws.uniform(0.0, 2 * piece) * (1 + len(ended) // KILLS))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        file = folder / "parts" / trainer.CHECKPOINT
        ended.append(checkpoint.load(file).metadata["epoch"] if file.exists() else None)
    _, status = os.waitpid(fork(folder / "parts"), 0)
    return ended, os.waitstatus_to_exitcode(status)
