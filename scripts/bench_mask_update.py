"""What the masks cost: one Sparsifier.step of ResNet-50 (1x16, 75 %, BPAR) beside an epoch of ImageNet.

    OMP_NUM_THREADS=1 taskset -c 0 python scripts/bench_mask_update.py > results/mask_update.csv

Training steps (forward, backward, SGD; 224x224) and mask updates are made in turn on one thread, whose CPU time is
taken, so that other processes on the core count little, and the least of the rounds counts. An epoch is an estimate:
1,281,167 images over the images/s measured, and over the 2500 images/s that one assumes of a data-centre GPU, with the
update still made at this CPU's speed. The last rows hold the peak memory beyond weights and blocks of scoring one
512x2048x1x1 layer, in a process of its own, against the size of its cosines [32, 2048, 2048].
"""

import argparse
import csv
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from subp import models
from subp.pruning import block_masks, criteria
from subp.pruning.sparsifier import Sparsifier
from subp.training.loop import parameter_groups

IMAGES, GPU_IMAGES_PER_S = 1_281_167, 2500.0
OUTPUTS, CHANNELS, N = 512, 2048, 16


def update_and_step(batch: int, rounds: int) -> tuple[float, float]:
    """Seconds of a mask update, and of a training step on `batch` images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = models.create("resnet50", 1000)
    sparsifier = Sparsifier(model, n=N, sparsity=0.75, epochs=250)
    optimizer = torch.optim.SGD(parameter_groups(model, 1e-4), lr=0.1, momentum=0.9)
    sparsifier.decay_in(optimizer)
    images, labels = torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.long)
    updates, steps = [], []
    for number in range(rounds):
        started = time.process_time()
        sparsifier.step(20 + number)
        updated = time.process_time()
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        updates.append(updated - started)
        steps.append(time.process_time() - updated)
    return min(updates), min(steps)


def scoring_memory() -> float:
    """MiB by which scoring raises this process's peak of resident memory."""
    split = block_masks.to_blocks(torch.randn(OUTPUTS, CHANNELS, 1, 1), N)
    criteria.bpar(split[:1, :64])  # libraries loaded
    before = _peak_kib()
    criteria.bpar(split)
    return (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    """Linux's high-water mark of this process's resident memory; getrusage's is handed down by the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="only print the peak of scoring")
    options = parser.parse_args()
    if options.memory:
        print(scoring_memory())
        return
    update, step = update_and_step(options.batch, options.rounds)
    again = [sys.executable, __file__, "--memory"]
    peaks = [float(subprocess.run(again, capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    writer = csv.writer(sys.stdout)
    writer.writerow(["quantity", "value", "unit"])
    writer.writerow(["mask update of ResNet-50", f"{update:.2f}", "s"])
    writer.writerow(["training on this CPU", f"{options.batch / step:.2f}", "images/s"])
    for where, speed in (("this CPU", options.batch / step), ("a GPU, assumed", GPU_IMAGES_PER_S)):
        epoch = IMAGES / speed
        writer.writerow([f"epoch of ImageNet on {where} (estimated)", f"{epoch:.0f}", "s"])
        writer.writerow([f"update's share of it on {where}", f"{100 * update / (epoch + update):.4f}", "%"])
    writer.writerow(["peak memory of bpar on 512x2048x1x1, most of 3 runs", f"{max(peaks):.0f}", "MiB"])
    writer.writerow(["its cosines at once", f"{OUTPUTS // N * CHANNELS**2 * 4 / 2**20:.0f}", "MiB"])


if __name__ == "__main__":
    main()
