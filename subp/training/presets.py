"""The SUBP paper's prune rates by name (arXiv 2310.06218, table 1, and the authors' public code), and what else that
code sets.

The name tells network and multiply-accumulates, of one 3x224x224 image, that the paper gives. Rates are fractions of
128, as in that code. Stem, depthwise and classifier stay dense, as do the 1x1 shortcuts of ResNet-18 and -34. Counted
here are the products of convolutions and linear layers: that gives 1.028, 2.044, 2.043, 1.040 G and 278.3 M.
"""

from dataclasses import dataclass
from typing import Any

INPUT_SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Preset:
    """What `Sparsifier` (all but `model`) and `subp train` are to be given; `macs` is the paper's figure."""

    model: str
    sparsity: float
    macs: float
    exclude: tuple[str, ...] = ()

    def settings(self, as_published: bool = False) -> dict[str, Any]:
        """Of `Config.of`, by name: those of the preset; with `as_published` those of `PUBLISHED` besides."""
        own = {"model": self.model, "sparsity": self.sparsity, "exclude": self.exclude}
        return PUBLISHED | own if as_published else own


# What the authors' code has where this project's defaults may differ. In it the rate climbs from epoch 10 to 180, of
# some 250 (inferred), which is what `start` and `end` are by default for 250 epochs, and in proportion for others. The
# criterion is the paper's, BPAR, which its scripts leave out.
PUBLISHED: dict[str, Any] = {
    "method": "subp",
    "criterion": "bpar",
    "alpha": 1.0,
    "scoring": "masked",
    "schedule": "cubic",
    "tau": 1.0,
    "soft": True,
    "decay": 2e-4,
    "epochs": 250,
    "batch_size": 512,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "label_smoothing": 0.1,
}
_SHORTCUTS = ("*.downsample.*",)

PRESETS = {
    "resnet18-1.03g": Preset("resnet18", 60 / 128, 1.03e9, _SHORTCUTS),
    "resnet34-2.0g": Preset("resnet34", 59 / 128, 2.0e9, _SHORTCUTS),
    "resnet50-2.0g": Preset("resnet50", 66 / 128, 2.0e9),
    "resnet50-1.0g": Preset("resnet50", 98.5 / 128, 1.0e9),
    "mobilenetv1-279m": Preset("mobilenet_v1", 69 / 128, 279e6),
}
