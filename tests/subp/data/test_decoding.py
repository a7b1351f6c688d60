"""Image files of every kind of pixel: what is decoded, and what is refused."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from subp.data.decoding import open_image
from subp.data.preprocessing import Preprocessing
from subp.data.transforms import evaluation
from subp_contract.errors import UserError

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
GREY = Image.fromarray((RAMP * 255).round().astype(np.uint8))


def content(image, kind, **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "dtype, highest, kind",
    [
        ("uint16", 65535, "PNG"),
        ("int32", 65535, "TIFF"),
        ("int32", 255, "TIFF"),
        ("float32", 1, "TIFF"),
        ("float32", 255, "TIFF"),
        ("float32", 65535, "TIFF"),
    ],
)
def test_pixels_of_more_than_8_bits_are_scaled_by_their_range(dtype, highest, kind):
    pixels = (RAMP * highest).round() if dtype != "float32" else RAMP * highest
    image = open_image(content(pixels.astype(dtype), kind))
    assert image.mode == "L" and np.array_equal(np.asarray(image), np.arange(256).reshape(16, 16))


def test_a_dark_image_of_16_bits_stays_dark():
    assert np.asarray(open_image(content(np.full((4, 4), 200, "uint16"), "PNG"))).max() == 0


@pytest.mark.parametrize("pixels", [RAMP * 2**30, RAMP - 0.5, RAMP * np.nan])
def test_pixels_of_no_known_range_are_refused(pixels):
    with pytest.raises(UserError, match=r"its pixels are from .* to .*: save it with pixels in \[0, 1\]"):
        open_image(content(pixels.astype("float32"), "TIFF"))


def lab():
    neutral = Image.new("L", GREY.size, 128)
    return Image.merge("LAB", (GREY, neutral, neutral))


def see_through():
    image = GREY.convert("P")
    image.info["transparency"] = bytes(range(256))
    return image


@pytest.mark.parametrize(
    "make, kind, mode",
    [
        (lambda: GREY.convert("RGB").convert("CMYK"), "JPEG", "RGB"),
        (lambda: GREY.convert("RGB").convert("YCbCr"), "JPEG", "RGB"),
        (lambda: GREY.convert("LA"), "PNG", "L"),
        (lambda: GREY.convert("RGBA"), "PNG", "RGB"),
        (lambda: GREY.convert("P"), "PNG", "RGB"),
        (see_through, "PNG", "RGB"),
        (lab, "TIFF", "RGB"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("error")
def test_colours_of_every_kind_keep_their_contrast(make, kind, mode, channels):
    image = open_image(content(make(), kind))
    pixels = evaluation(Preprocessing.standard(16, channels))(image)
    assert image.mode == mode and pixels.shape == (channels, 16, 16)
    for channel in pixels:
        assert torch.corrcoef(torch.stack([channel.flatten(), torch.tensor(RAMP).float().flatten()]))[0, 1] > 0.97


def test_a_turned_photo_stands_upright():
    exif, wide = Image.Exif(), np.zeros((16, 32, 3), np.uint8)
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    wide[:, :16] = 255
    image = np.asarray(open_image(content(wide, "JPEG", exif=exif, quality=95)))
    assert image.shape == (32, 16, 3) and image[:14].min() > 200 and image[18:].max() < 50


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "x.png").write_bytes(content(np.zeros((8, 8), "uint8"), "PNG")[:40])
    (tmp_path / "y.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"x.png"):
        open_image(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"y.png: it is no image of a known format"):
        open_image(tmp_path / "y.png")
    with pytest.raises(UserError, match=r"^it is no image of a known format$"):
        open_image(b"text")
