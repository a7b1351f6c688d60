"""Training in several processes, in the shape of torchvision's reference script: DDP around a model with masks.

    torchrun --nproc-per-node 2 examples/two_processes.py --epochs 3

Images are random, of two classes that differ in brightness: put a data set of yours in their place.
"""

import argparse

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import subp
from subp import models


def images_and_classes(count: int) -> tuple[Tensor, Tensor]:
    """Images [count, 3, 16, 16] and their classes, of a seed of their own: the same in every process."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(2, (count,), generator=generator)
    return torch.randn(count, 3, 16, 16, generator=generator) + classes.view(-1, 1, 1, 1), classes


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> None:
    """As anybody's."""
    model.train()
    for images, classes in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()


def main() -> None:
    """Rank 0 writes two_processes.pth, a plain state dict with zeros."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    epochs = parser.parse_args().epochs
    dist.init_process_group("gloo")
    torch.manual_seed(0)  # equal models
    model = models.create("resnet20", num_classes=2)
    sparsifier = subp.Sparsifier(model, n=16, sparsity=0.75, epochs=epochs)  # before DDP, which shares its masks
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    sparsifier.decay_in(optimizer)
    dataset = TensorDataset(*images_and_classes(64))
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=16, sampler=sampler)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        sparsifier.step(epoch)  # in every process: draws depend on seed, layer and epoch alone
        train_one_epoch(wrapped, optimizer, loader)
    folded = sparsifier.fold()
    if dist.get_rank() == 0:
        torch.save(folded.state_dict(), "two_processes.pth")
        print(f"{dist.get_world_size()} processes, density {sparsifier.density:.2f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
