"""What zeros inside the kernels buy: 3x3 layers with the same number of kept weights, as whole kernels (1xN) and as
shared patterns (HRBP++).

    taskset -c 1 python scripts/column_kernels.py [--target x86-avx512]

Each layer is built dense and both ways, with the kernel that its plan chooses, and checked against PyTorch; calls in
turn, least times.
"""

import time

import click
import numpy as np
import torch
from torch import nn

import tvm_sched

# Channels, size of the output, stride.
LAYERS = [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1), (128, 28, 2), (256, 14, 2)]


def pruned(weight: np.ndarray, n: int, density: float, unit: int) -> np.ndarray:
    """Each group of n outputs keeps random units, of so many kernel positions, of that density."""
    rng = np.random.default_rng(0)
    units = weight.reshape(len(weight) // n, n, -1, unit)
    kept = np.zeros((len(units), 1, units.shape[2], 1), bool)
    for group in kept[:, 0, :, 0]:
        group[rng.permutation(len(group))[: round(density * len(group))]] = True
    return (units * kept).reshape(weight.shape)


def build(channels: int, size: int, stride: int, weight: np.ndarray, target: str):
    model = nn.Conv2d(channels, len(weight), 3, stride, 1, bias=False).eval()
    model.weight.data = torch.from_numpy(np.ascontiguousarray(weight, "float32"))
    x = torch.randn(1, channels, size * stride, size * stride)
    artifact = tvm_sched.compile(model, x, target=target)
    np.testing.assert_allclose(artifact(x.numpy()), model(x).detach().numpy(), rtol=1e-3, atol=1e-3)
    return artifact, x.numpy()


@click.command()
@click.option("--target", default="host", show_default=True)
@click.option("--n", default=16, show_default=True)
@click.option("--density", default=0.25, show_default=True)
@click.option("--calls", default=200, show_default=True)
def main(target: str, n: int, density: float, calls: int) -> None:
    torch.manual_seed(0)
    for channels, size, stride in LAYERS:
        weight = np.random.default_rng(1).standard_normal((channels, channels, 3, 3))
        weights = {"dense": weight, "1xN": pruned(weight, n, density, 9), "patterns": pruned(weight, n, density, 1)}
        builds = {name: build(channels, size, stride, each, target) for name, each in weights.items()}
        least = dict.fromkeys(builds, float("inf"))
        for _ in range(calls):
            for name, (artifact, x) in builds.items():
                started = time.perf_counter()
                artifact(x)
                least[name] = min(least[name], time.perf_counter() - started)
        print(f"{channels} channels, {size}x{size}, stride {stride}: ", end="")
        print(
            "; ".join(f"{name} {1e6 * least[name]:.0f} us ({builds[name][0].explain()[0].kernel})" for name in builds),
            flush=True,
        )


if __name__ == "__main__":
    main()
