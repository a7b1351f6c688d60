"""A training loop of one's own on scikit-learn's digits: dense for comparison, then 1x16 sparse; compiled.

python examples/own_loop.py --epochs 15
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import subp
import tvm_sched


def small_network() -> nn.Sequential:
    """For images [1, 8, 8] of ten classes."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 32, 1), (32, 64, 1), (64, 64, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def train(images: Tensor, labels: Tensor, sparsity: float, epochs: int) -> nn.Module:
    """A network that was trained on images [B, 1, 8, 8]; sparsity 0 trains it densely."""
    torch.manual_seed(0)
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    sparsifier = subp.Sparsifier(model, n=16, sparsity=sparsity, epochs=epochs) if sparsity else None
    if sparsifier:
        sparsifier.decay_in(optimizer)
    for epoch in range(epochs):
        if sparsifier:
            sparsifier.step(epoch)  # prune and regrow
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return (sparsifier.fold() if sparsifier else model).eval()


def main() -> None:
    """Prints the accuracies and writes own_loop.so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(classes)
    held_out = torch.arange(len(images)) % 5 == 0
    for sparsity in (0.0, 0.75):
        model = train(images[~held_out], labels[~held_out], sparsity, epochs)
        with torch.no_grad():
            right = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean()
        print(f"{sparsity:.0%} pruned: {right:.1%} of {held_out.sum()} images right")
    artifact = tvm_sched.compile(model, images[:1], threads=1)
    artifact.save("own_loop.so")
    print(artifact)


if __name__ == "__main__":
    main()
