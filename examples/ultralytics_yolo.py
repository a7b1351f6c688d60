"""YOLO11n of ultralytics, trained dense and sparse by its own trainer on drawn shapes, with the mAP of both.

    pip install ultralytics                               # AGPL-3.0: a tool of this example, nothing of subp's
    python examples/ultralytics_yolo.py --epochs 10
    subp compile yolo.safetensors --code examples/ultralytics_yolo.py:yolo11n --size 160 -o yolo.so
    subp compile yolo.onnx -o yolo.so                     # the same from what ultralytics exports

The sparsifier joins by callbacks alone. The trainer's average of the weights has masks of its own: they follow the
model's before it is judged, and files hold plain modules with zeros in place, which ultralytics loads as ever.
"""

import argparse
import sys
from copy import deepcopy
from pathlib import Path

from drawn_shapes import NAMES, write
from safetensors.torch import save_file
from torch import Tensor, nn

import subp


class Sparse:
    """Callbacks of ultralytics' trainer that prune what it trains."""

    def __init__(self, **options: object) -> None:
        self.options = options

    def add_to(self, yolo) -> None:
        """yolo: an `ultralytics.YOLO`."""
        yolo.add_callback("on_pretrain_routine_end", self.begin)
        yolo.add_callback("on_train_epoch_start", self.prune)
        yolo.add_callback("on_train_epoch_end", self.share)

    def begin(self, trainer) -> None:
        """Masks go on the model, and its average is a copy with masks."""
        self.sparsifier = subp.Sparsifier(trainer.model, epochs=trainer.epochs, **self.options)
        trainer.ema = type(trainer.ema)(trainer.model)
        self.save, trainer.save_model = trainer.save_model, lambda: self.save_folded(trainer)

    def prune(self, trainer) -> None:
        """The epoch's masks; the best network so far counts only once as much is pruned as is asked for."""
        self.sparsifier.step(trainer.epoch)
        if trainer.epoch <= self.sparsifier.settings.end:
            trainer.best_fitness = None

    def share(self, trainer) -> None:
        """Before the average is judged."""
        self.sparsifier.share_masks(trainer.ema.ema)

    def save_folded(self, trainer) -> bool:
        """Files hold a network without masks, zeros in place."""
        average = trainer.ema.ema
        trainer.ema.ema = self.sparsifier.fold(deepcopy(average))
        try:
            return self.save()
        finally:
            trainer.ema.ema = average


class Raw(nn.Module):
    """What is compiled: images [B, 3, S, S] -> boxes and scores [B, 4 + classes, A], before overlaps are removed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        self.model.model[-1].shape = None  # the head keeps places of the last size: those of a trace are no numbers
        return self.model(images)[0]


def yolo11n(num_classes: int = len(NAMES), in_channels: int = 3) -> nn.Module:
    """For `subp compile --code`, whose `num_classes` is the width of the last layer: in a detector not that number."""
    from ultralytics.nn.tasks import DetectionModel

    return Raw(DetectionModel("yolo11n.yaml", in_channels, len(NAMES), verbose=False))


def main() -> None:
    """Prints both mAPs; writes yolo.safetensors and yolo.onnx."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=160, help="of the images, in pixels")
    parser.add_argument("--images", type=int, default=256, help="to train with")
    parser.add_argument("--method", default="rigl")
    options = parser.parse_args()
    try:
        from ultralytics import YOLO
    except ImportError:
        sys.exit("this example needs ultralytics (AGPL-3.0), which subp never installs: pip install ultralytics")
    data = write(Path("shapes"), {"train": options.images, "val": 64}, options.size)
    for word, sparse in (("dense", None), ("75 %, 1x16", Sparse(n=16, sparsity=0.75, method=options.method))):
        yolo = YOLO("yolo11n.yaml", verbose=False)
        if sparse:
            sparse.add_to(yolo)
        yolo.train(
            data=str(data), epochs=options.epochs, imgsz=options.size, batch=16, device="cpu", workers=0, seed=0,
            optimizer="AdamW", lr0=0.002, warmup_epochs=1, mosaic=0, plots=False, verbose=False, exist_ok=True,
            project=str(Path("yolo_runs").resolve()), name="sparse" if sparse else "dense",
        )  # fmt: skip
        found = yolo.trainer.metrics
        print(f"{word}: mAP50 {found['metrics/mAP50(B)']:.3f}, mAP50-95 {found['metrics/mAP50-95(B)']:.3f}")
    best = YOLO(yolo.trainer.best)
    network = Raw(deepcopy(best.model).float().eval())
    layers = subp.inspect(network, (3, options.size, options.size))
    kept = sum(layer.sparse_macs for layer in layers) / sum(layer.macs for layer in layers)
    print(f"multiply-adds kept: {kept:.1%}, of layers in blocks of 1x16: {sum(layer.n == 16 for layer in layers)}")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, "yolo.safetensors")
    Path(best.export(format="onnx", imgsz=options.size, simplify=False)).replace("yolo.onnx")


if __name__ == "__main__":
    main()
