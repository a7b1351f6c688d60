"""A file's bytes -> an image of 8 bits a channel, grey or RGB, upright."""

import io
import logging
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from subp_contract.errors import UserError, require
from subp_contract.files import read_file

UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, RuntimeError),  # what PIL raises of damaged files
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, Image.DecompressionBombError),
)
LARGEST = 2**28  # bytes of an image file
_PLAIN = ("1", "L", "RGB")
_BITS_16 = 2**16 - 1
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs of a damaged file, it raises too


def open_image(file: bytes | Path) -> Image.Image:
    """The image in a file, or in a file's content, decoded, of a mode in `_PLAIN`: turned as its EXIF data say, without
    transparency, LAB as sRGB, 16 bits a pixel scaled to 8, whole numbers of 32 bits and fractions as their range says.

    Raises UserError, naming the file, where that cannot be done.
    """
    name = "" if isinstance(file, bytes) else f"{file}: "
    try:
        with warnings.catch_warnings():  # of tags that are not used
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(file if isinstance(file, bytes) else read_file(file, LARGEST)))
            image.load()
            return _plain(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:  # PIL would name an object in memory
        raise UserError(f"{name}it is no image of a known format") from error
    except UNREADABLE as error:
        raise UserError(f"{name}{error}") from error


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in _PLAIN:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_in_8_bits(np.asarray(image), image.mode))
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if image.mode in ("LA", "La"):
        return image.convert("L")
    return image.convert("RGB")  # transparency in a palette goes, as all transparency does


def _in_8_bits(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Pixels [H, W] of 16 bits ("I;16"), or of more: numbers up to 1 (of fractions), 255 or 65535, whichever is the
    least that covers the image.
    """
    low, high = pixels.min(), pixels.max()
    require(
        bool(low >= 0 and high <= _BITS_16),  # false of NaN, too
        f"its pixels are from {low} to {high}: save it with pixels in [0, 1], [0, 255] or [0, {_BITS_16}]",
    )
    if mode.startswith("I;16") or high > 255:
        return (pixels // 257).astype(np.uint8)
    return (pixels * 255 if mode == "F" and high <= 1 else pixels).round().astype(np.uint8)
