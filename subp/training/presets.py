"""The SUBP paper's prune rates by name (arXiv 2310.06218, table 1, and the authors' public code).

The name tells network and multiply-accumulates, of one 3x224x224 image, that the paper gives. Rates are fractions of
128, as in that code. Stem, depthwise and classifier stay dense, as do the 1x1 shortcuts of ResNet-18 and -34. Counted
here are the products of convolutions and linear layers: that gives 1.028, 2.044, 2.043, 1.040 G and 278.3 M.
"""

from dataclasses import dataclass

INPUT_SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Preset:
    """What `Sparsifier` (all but `model`) and `subp train` are to be given; `macs` is the paper's figure."""

    model: str
    sparsity: float
    macs: float
    exclude: tuple[str, ...] = ()


_SHORTCUTS = ("*.downsample.*",)

PRESETS = {
    "resnet18-1.03g": Preset("resnet18", 60 / 128, 1.03e9, _SHORTCUTS),
    "resnet34-2.0g": Preset("resnet34", 59 / 128, 2.0e9, _SHORTCUTS),
    "resnet50-2.0g": Preset("resnet50", 66 / 128, 2.0e9),
    "resnet50-1.0g": Preset("resnet50", 98.5 / 128, 1.0e9),
    "mobilenetv1-279m": Preset("mobilenet_v1", 69 / 128, 279e6),
}
