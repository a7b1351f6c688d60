"""Images prepared by Pillow and NumPy are, bit for bit, those that torchvision prepares."""

import numpy as np
import pytest
from PIL import Image

from subp.common.vision import import_torchvision
from subp.data.preprocessing import Preprocessing
from subp.data.transforms import finished


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_torchvisions(mode, channels):
    v2, rng = import_torchvision().transforms.v2, np.random.default_rng(channels)
    for resize, size in ((24, 24), (33, 24), (13, 24), (70, 64)):
        about = Preprocessing(size, resize, channels, tuple(rng.random(channels)), tuple(rng.random(channels) + 0.1))
        geometry = [v2.RGB() if channels == 3 else v2.Grayscale(1), v2.Resize(resize), v2.CenterCrop(size)]
        expected = v2.Compose([*geometry, v2.ToImage(), finished(about)])
        for height, width in ((24, 24), (50, 31), (7, 90), (71, 64)):
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype="uint8")).convert(mode)
            made = about.of_image(image)
            assert made.dtype == np.float32 and made.flags.c_contiguous
            assert np.array_equal(made, expected(image).numpy())
