"""A vision transformer's linear and attention layers, pruned to 1x16 blocks and compiled.

    python examples/vision_transformer.py --size 224 --patch 16 --width 768 --layers 12     # ViT-B/16's sizes

The defaults are small. Weights are random: train after `step` as in own_loop.py.
"""

import argparse

import torch

import subp
import tvm_sched
from subp.common.vision import import_torchvision  # as `import torchvision`, beside a CPU build of PyTorch too


def main() -> None:
    """Prints the pruned layers, and how far the compiled network is from PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 32), ("patch", 8), ("width", 64), ("layers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = import_torchvision().models.VisionTransformer(
        image_size=options.size,
        patch_size=options.patch,
        num_layers=options.layers,
        num_heads=options.width // 64,
        hidden_dim=options.width,
        mlp_dim=4 * options.width,
        num_classes=10,
    )
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision begins at zero, which would hide errors
    sparsifier = subp.Sparsifier(model, n=16, sparsity=0.75, method="one-by-n-uniform", epochs=1)
    sparsifier.step(0)
    for layer in sparsifier.summary():
        print(f"{layer.name:50} {layer.density:.0%} {layer.reason or ''}")
    model = sparsifier.fold().eval()
    x = torch.randn(1, 3, options.size, options.size)
    artifact = tvm_sched.compile(model, x, threads=1)
    with torch.no_grad():
        print(f"largest difference: {(artifact(x) - model(x)).abs().max():.1e}")
    print(artifact)


if __name__ == "__main__":
    main()
