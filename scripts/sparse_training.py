"""Does a training step get faster by leaving the pruned blocks out? Times forward and backward of single layers, dense
and 1xN sparse at 75 %, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python scripts/sparse_training.py > results/sparse_training.csv
    OMP_NUM_THREADS=1 taskset -c 0 python scripts/sparse_training.py --networks > results/sparse_training_networks.csv

The second times whole training steps with and without `--sparse-compute` (subp/pruning/sparse_compute.py), in turn, at
a density of 25 %: what remains of the gain when 1x1 convolutions are only a part of the work.

Three products of a layer: its output Y, the gradient dX of its input, the gradient dW of its weight. The sparse ones
run per group of N outputs over its K kept channels (or kernel patches of them):

    Y_g = W_g X[idx_g]         [N, K] x [K, P]       gathered rows, one torch.bmm over the G groups
    dX[idx_g] += W_g^T dY_g    [K, N] x [N, P]       bmm, then index_add
    dW_g = dY_g X[idx_g]^T     [N, P] x [P, K]       bmm; of kept blocks only, so not for soft training

and `csr` is Y alone, by MKL's sparse-dense product. Dense is PyTorch's own convolution (oneDNN). All are called in turn
on one thread, whose CPU time is taken, so that other processes on the core count little; the least of the rounds
counts. A 3x3 convolution's patches are unfolded in every call, and its times hold that. Columns in milliseconds; `soft`
and `hard` are a whole step's speed-up over dense: soft training needs the dense dW, hard does not.
"""

import csv
import sys
import time

import torch
from torch.nn.functional import cross_entropy, fold, unfold
from torch.nn.grad import conv2d_input, conv2d_weight

from subp import models
from subp.pruning import sparse_compute
from subp.pruning.sparsifier import Sparsifier
from subp.training.loop import parameter_groups

BATCH, SPARSITY, ROUNDS = 16, 0.75, 3
NETWORKS, NETWORK_BATCH = ("resnet50", "mobilenet_v1"), 4
LAYERS = [  # (channels in, channels out, kernel, pixels a side), of ResNet-18 and ResNet-50
    (64, 256, 1, 56),
    (256, 64, 1, 56),
    (512, 128, 1, 28),
    (256, 1024, 1, 14),
    (1024, 256, 1, 14),
    (2048, 512, 1, 7),
    (64, 64, 3, 56),
    (128, 128, 3, 28),
    (256, 256, 3, 14),
    (512, 512, 3, 7),
]
BLOCKS = (16, 32, 64)


def products(inputs: int, outputs: int, kernel: int, size: int, n: int) -> dict:
    """Name -> function without arguments, for the eight products of one layer; sparse ones checked against dense."""
    draws = torch.Generator().manual_seed(0)
    pad, positions, pixels = kernel // 2, kernel * kernel, size * size
    groups, kept = outputs // n, round(inputs * (1 - SPARSITY))
    index = torch.stack([torch.randperm(inputs, generator=draws)[:kept].sort().values for _ in range(groups)])
    weight = torch.zeros(groups, n, inputs, kernel, kernel)
    for g in range(groups):
        weight[g, :, index[g]] = torch.randn(n, kept, kernel, kernel, generator=draws)
    weight = weight.flatten(0, 1)
    packed = torch.stack([weight.view(groups, n, inputs, positions)[g, :, index[g]].flatten(1) for g in range(groups)])
    rows = (index.unsqueeze(-1) * positions + torch.arange(positions)).flatten()  # of the unfolded input
    x = torch.randn(BATCH, inputs, size, size, generator=draws)
    dy = torch.randn(BATCH, outputs, size, size, generator=draws)
    csr = weight.flatten(1).to_sparse_csr()
    shape = (inputs * positions, pixels)

    def patches(image):
        return (image if kernel == 1 else unfold(image[None], kernel, padding=pad)[0]).reshape(shape)

    # An image at a time: what is gathered of it then fits in the cache.
    def gathered(image):
        return patches(image).index_select(0, rows).view(groups, kept * positions, pixels)

    def sparse_y():
        return torch.stack([torch.bmm(packed, gathered(image)).view(outputs, size, size) for image in x])

    def sparse_dx():
        out = []
        for gradient in dy:
            terms = torch.bmm(packed.transpose(1, 2), gradient.view(groups, n, pixels)).view(-1, pixels)
            summed = torch.zeros(shape).index_add_(0, rows, terms)
            out.append(
                summed.view(inputs, size, size)
                if kernel == 1
                else fold(summed[None], (size, size), kernel, padding=pad)[0]
            )
        return torch.stack(out)

    def sparse_dw():
        total = torch.zeros_like(packed)
        for image, gradient in zip(x, dy, strict=True):
            total.baddbmm_(gradient.view(groups, n, pixels), gathered(image).transpose(1, 2))
        return total

    def csr_y():
        return torch.stack([(csr @ patches(image)).view(outputs, size, size) for image in x])

    tasks = {
        "y": lambda: torch.conv2d(x, weight, padding=pad),
        "dx": lambda: conv2d_input(x.shape, weight, dy, padding=pad),
        "dw": lambda: conv2d_weight(x, weight.shape, dy, padding=pad),
        "sparse_y": sparse_y,
        "sparse_dx": sparse_dx,
        "sparse_dw": sparse_dw,
        "csr_y": csr_y,
    }
    kept_dw = tasks["dw"]().view(groups, n, inputs, positions)
    kept_dw = torch.stack([kept_dw[g][:, index[g]].flatten(1) for g in range(groups)])
    for sparse, dense in (("sparse_y", tasks["y"]()), ("csr_y", tasks["y"]()), ("sparse_dx", tasks["dx"]())):
        torch.testing.assert_close(tasks[sparse](), dense, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sparse_dw(), kept_dw, rtol=1e-3, atol=1e-2)
    return tasks


def step_times(name: str, n: int, soft: bool) -> tuple[float, float]:
    """Seconds of a training step on NETWORK_BATCH images of 224x224, computed densely and sparsely."""
    torch.manual_seed(0)
    model = models.create(name, 1000)
    sparsifier = Sparsifier(model, n=n, sparsity=SPARSITY, epochs=2, soft=soft)
    optimizer = torch.optim.SGD(parameter_groups(model, 1e-4), lr=0.01, momentum=0.9)
    sparsifier.decay_in(optimizer)
    sparsifier.step(1)
    images, labels = torch.randn(NETWORK_BATCH, 3, 224, 224), torch.zeros(NETWORK_BATCH, dtype=torch.long)
    least = [float("inf")] * 2
    for _ in range(ROUNDS):
        for sparse in (False, True):
            if sparse:
                sparse_compute.attach(model)
            else:
                sparse_compute.detach(model)
            started = time.process_time()
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            least[sparse] = min(least[sparse], time.process_time() - started)
    return least[0], least[1]


def networks() -> None:
    """A line of CSV for each network, block size, and way of training."""
    writer = csv.writer(sys.stdout)
    writer.writerow(["network", "n", "training", "dense_s", "sparse_s", "speed_up"])
    for name in NETWORKS:
        for n in BLOCKS[:2]:
            for soft in (True, False):
                dense, sparse = step_times(name, n, soft)
                kind = "soft" if soft else "hard"
                writer.writerow([name, n, kind, f"{dense:.2f}", f"{sparse:.2f}", f"{dense / sparse:.2f}"])
                sys.stdout.flush()


@torch.no_grad()
def layers() -> None:
    """A line of CSV for each layer and block size."""
    writer = None
    for layer in LAYERS:
        for n in BLOCKS:
            tasks = products(*layer, n)
            least = dict.fromkeys(tasks, float("inf"))
            for _ in range(ROUNDS):
                for name, call in tasks.items():
                    started = time.process_time()
                    call()
                    least[name] = min(least[name], 1e3 * (time.process_time() - started))
            dense = least["y"] + least["dx"] + least["dw"]
            soft = dense / (least["sparse_y"] + least["sparse_dx"] + least["dw"])
            hard = dense / (least["sparse_y"] + least["sparse_dx"] + least["sparse_dw"])
            inputs, outputs, kernel, size = layer
            row = {"layer": f"{inputs}->{outputs} {kernel}x{kernel} at {size}x{size}", "n": n}
            row |= {name: f"{value:.2f}" for name, value in least.items()}
            row |= {"soft": f"{soft:.2f}", "hard": f"{hard:.2f}"}
            if writer is None:
                writer = csv.DictWriter(sys.stdout, row)
                writer.writeheader()
            writer.writerow(row)
            sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    networks() if "--networks" in sys.argv[1:] else layers()
