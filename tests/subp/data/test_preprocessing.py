"""Images prepared without PyTorch, held against torchvision's transforms."""

import numpy as np
import pytest
from PIL import Image

from subp.data.preprocessing import Preprocessing
from subp.data.transforms import evaluation

STANDARD = [Preprocessing.standard(size, channels) for size in (28, 32, 96, 97) for channels in (1, 3)]
OTHERS = [Preprocessing(40, 33, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)), Preprocessing(41, 32, 1, (0.0,), (1.0,))]


@pytest.mark.parametrize("shape", [(32, 32, 3), (101, 64, 3), (40, 121), (150, 33)], ids=str)
@pytest.mark.parametrize("preprocessing", [*STANDARD, *OTHERS], ids=lambda each: f"{each.size}-{each.channels}")
def test_as_torchvision_prepares_it(preprocessing, shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    made = preprocessing(image)
    assert made.dtype == np.float32 and made.flags.c_contiguous
    np.testing.assert_array_equal(made, evaluation(preprocessing)(image).numpy())
