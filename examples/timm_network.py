"""A network of timm pruned at once to 1x16 blocks, compiled, and timed beside its dense build.

    python examples/timm_network.py resnet18 --size 224      # pip install 'subp-cpu[timm]'

With random weights, as nothing is downloaded: load a checkpoint of yours, and train on after pruning.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import subp
import tvm_sched
from subp import models


def milliseconds(run: Callable[[Tensor], object], x: Tensor, seconds: float = 1.0) -> float:
    """The least time of a call."""
    run(x)  # the first call makes memory ready
    end, least = time.perf_counter() + seconds, float("inf")
    while (now := time.perf_counter()) < end:
        run(x)
        least = min(least, time.perf_counter() - now)
    return 1000 * least


def main() -> None:
    """Prints what is pruned and how long both builds take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of timm's networks")
    parser.add_argument("--size", type=int, default=224, help="of the images, in pixels")
    options = parser.parse_args()
    torch.manual_seed(0)
    try:
        model = models.create(f"timm/{options.name}", num_classes=10).eval()  # or timm.create_model(...)
    except subp.Error as error:
        sys.exit(str(error))
    for module in model.modules():  # timm begins with branches that add nothing, which would be left out
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    sparsifier = subp.Sparsifier(model, n=16, sparsity=0.75, method="one-by-n-uniform", epochs=1)
    sparsifier.step(0)
    model = sparsifier.fold()
    x = torch.randn(1, 3, options.size, options.size)
    for layer in subp.inspect(model, (3, options.size, options.size)):
        print(f"{layer.name:30} 1x{layer.n or 1:<3} {layer.density:.0%}")
    for word, dense in (("dense", True), ("sparse", False)):
        artifact = tvm_sched.compile(model, x, threads=1, dense=dense)
        print(f"{word}: {milliseconds(artifact, x):.2f} ms")


if __name__ == "__main__":
    main()
