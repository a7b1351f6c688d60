"""The quickstart's picture is a PNG with every number in it."""

import io

import numpy as np
from PIL import Image

from subp.deployment.picture import draw
from tvm_sched.bench.rows import Row


def rows(*medians: float) -> list[Row]:
    engines = ("pytorch", "onnxruntime", "subp-dense", "subp-sparse")
    return [
        Row("net", name, "host", 16, 0.75, 1, 1, ms, ms, ms, 1.0, 1) for name, ms in zip(engines, medians, strict=True)
    ]


def test_the_picture_is_wide_enough_for_its_networks():
    accuracies = {"dense": 0.99, "SUBP 1x16 75 %": 0.98}
    one, two = (
        Image.open(io.BytesIO(draw(accuracies, dict.fromkeys(titles, rows(4, 3, 2, 1)), "a machine")))
        for titles in (["small"], ["small", "large"])
    )
    assert (one.format, one.height) == ("PNG", two.height)
    assert 1200 < one.width < two.width < 2400


def test_a_slower_engine_has_a_longer_bar():
    accent = np.array([0x0B, 0x7A, 0x75])  # the colour of the sparse build

    def accent_pixels(sparse_ms: float) -> int:
        png = draw({"dense": 1.0}, {"net": rows(8, 8, 8, sparse_ms)}, "a machine")
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        return int((abs(image - accent).max(2) < 8).sum())

    assert 1.9 < accent_pixels(4) / accent_pixels(2) < 2.1
