"""A network of torchvision that says of each pixel what it belongs to: trained dense and sparse, and compiled.

    python examples/segmentation.py --steps 60

torchvision's FCN on a ResNet-18, up to its second stage; drawn shapes. Shares of the pixels that are right, of the
dense network, the sparse one, and the sparse one compiled.
"""

import argparse
from collections.abc import Callable

import torch
from drawn_shapes import NAMES, Drawn, draw
from torch import Tensor, nn

import subp
import tvm_sched
from subp.common.vision import import_torchvision

models = import_torchvision().models  # also where its wheel and PyTorch's differ in kind
SIZE, BATCH, EPOCHS = 48, 16, 10


def network() -> nn.Module:
    """Images [B, 3, S, S] -> {"out": logits [B, 1 + classes, S, S]}."""
    torch.manual_seed(0)
    backbone = models._utils.IntermediateLayerGetter(models.resnet18(), {"layer2": "out"})
    fcn = models.segmentation.fcn
    return fcn.FCN(backbone, fcn.FCNHead(128, 1 + len(NAMES)))


def train(model: nn.Module, loss: Callable[[Tensor], Tensor], images: int, steps: int, sparsity: float) -> nn.Module:
    """The network, with zeros in place; loss: of the images of these numbers [BATCH]."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=steps)
    epoch = max(steps // EPOCHS, 1)  # as long as a mask stays, in steps
    sparsifier = subp.Sparsifier(model, n=16, sparsity=sparsity, method="rigl", epochs=-(-steps // epoch))
    model.train()
    for step in range(steps):
        if step % epoch == 0:
            sparsifier.step(step // epoch)
        optimizer.zero_grad()
        loss(torch.arange(step * BATCH, (step + 1) * BATCH) % images).backward()
        optimizer.step()
        schedule.step()
    return sparsifier.fold().eval()


def right(logits: Tensor, drawn: Drawn) -> float:
    """The share of a class's pixels that get it, the mean over the classes and the background."""
    found = logits.argmax(1)
    shares = [(found[drawn.pixels == kind] == kind).float().mean() for kind in range(1 + len(NAMES))]
    return float(torch.stack(shares).mean())


def main() -> None:
    """Prints three accuracies, and how far the compiled network is from PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="of training, 16 images each")
    options = parser.parse_args()
    drawn, judged = draw(512, SIZE, seed=0), draw(64, SIZE, seed=1)
    for sparsity in (0.0, 0.75):
        model = network()

        def loss(batch: Tensor, model: nn.Module = model) -> Tensor:
            return nn.functional.cross_entropy(model(drawn.images[batch])["out"], drawn.pixels[batch])

        train(model, loss, len(drawn.images), options.steps, sparsity)
        with torch.no_grad():
            logits = model(judged.images)["out"]
        print(f"{sparsity:.0%} pruned: {right(logits, judged):.1%} of the pixels right, mean of the classes")
    artifact = tvm_sched.compile(model, judged.images, threads=1)
    compiled = torch.as_tensor(artifact(judged.images)["out"])
    print(f"compiled: {right(compiled, judged):.1%}, largest difference {(compiled - logits).abs().max():.1e}")


if __name__ == "__main__":
    main()
