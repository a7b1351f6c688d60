"""Batches of inputs against the same done image by image."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from subp.data import loaders, transforms
from subp.data.loaders import Data, Loading
from subp.data.preprocessing import Preprocessing

SIZE, COUNT = 16, 96
MARGIN = SIZE // 8
DRAWS = torch.Generator().manual_seed(0)
BYTES = torch.randint(256, (COUNT, 3, SIZE, SIZE), dtype=torch.uint8, generator=DRAWS)
LABELS = torch.arange(COUNT) % 3
CLASSES = ["a", "b", "c"]


class Items(Dataset):
    """A data set that is asked for one item at a time."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], int(LABELS[index])


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


KINDS = {
    "bytes": TensorDataset(BYTES, LABELS),
    "part": Subset(Subset(TensorDataset(BYTES.flip(0), LABELS.flip(0)), range(COUNT)), range(COUNT - 1, -1, -1)),
    "items": Items(BYTES),
    "pil": Items([pil(image) for image in BYTES]),
    "mixed": Items([pil(image) if number % 2 else image / 255 for number, image in enumerate(BYTES)]),
}


def data(items, size=SIZE, channels=3, mirror=True):
    return Data(items, items, CLASSES, Preprocessing.standard(size, channels), mirror)


def batches(loader):
    images, labels = zip(*loaders.batches(loader), strict=True)
    return torch.cat(images), torch.cat(labels)


def augmented(items, workers=0, rank=0, ranks=1, batch=32, **options):
    loading = Loading(batch // ranks, workers, rank=rank, ranks=ranks)
    return batches(loaders.train_batches(data(items, **options), 3, loading, seed=1))


@pytest.mark.parametrize("size", [SIZE, 12, 80])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_validation_is_evaluation_of_each_image(kind, size, channels):
    about = data(KINDS[kind], size, channels)
    transform = transforms.evaluation(about.preprocessing)
    images, labels = batches(loaders.val_batches(about, Loading(40)))
    assert torch.equal(labels, LABELS)
    for number in range(0, COUNT, 7):
        torch.testing.assert_close(images[number], transform(KINDS[kind][number][0]), rtol=0, atol=1e-6)


def candidates(image):
    """(top, left, mirrored) -> the image augmented so, from its definition."""
    finished = transforms.finished(Preprocessing.standard(SIZE, 3))
    padded = torch.nn.functional.pad(image, [MARGIN] * 4)
    for top, left, mirrored in itertools.product(range(2 * MARGIN + 1), range(2 * MARGIN + 1), (False, True)):
        window = padded[:, top : top + SIZE, left : left + SIZE]
        yield (top, left, mirrored), finished(window.flip(2) if mirrored else window)


def test_each_image_is_shifted_and_mirrored_by_draws_of_its_own():
    images, labels = augmented(KINDS["bytes"])
    assert len(labels) == COUNT
    left_over, found = {number: list(candidates(BYTES[number])) for number in range(COUNT)}, []
    for image, label in zip(images, labels, strict=True):
        for number in [number for number in left_over if LABELS[number] == label]:
            match = [draw for draw, candidate in left_over[number] if torch.equal(candidate, image)]
            if match:
                found += match
                del left_over[number]
                break
    assert not left_over  # every image once, and exactly as the definition has it
    assert COUNT / 4 < sum(mirrored for _, _, mirrored in found) < COUNT * 3 / 4
    for axis in (0, 1):
        counts = np.bincount([draw[axis] for draw in found], minlength=2 * MARGIN + 1)
        assert counts.min() > COUNT / (2 * MARGIN + 1) / 3 and len(counts) == 2 * MARGIN + 1


@pytest.mark.parametrize("kind", ["part", "items", "pil"])
def test_however_images_are_held_the_inputs_are_the_same(kind):
    for got, expected in zip(augmented(KINDS[kind]), augmented(KINDS["bytes"]), strict=True):
        assert torch.equal(got, expected)


def test_augmentation_does_not_depend_on_workers_or_ranks():
    images, labels = augmented(KINDS["bytes"])
    assert torch.equal(augmented(KINDS["bytes"], workers=1)[0], images)
    shares = [augmented(KINDS["bytes"], rank=rank, ranks=2) for rank in range(2)]
    for number in range(3):  # batches
        both = torch.cat([share[1][16 * number : 16 * number + 16] for share in shares])
        assert sorted(both.tolist()) == sorted(labels[32 * number : 32 * number + 32].tolist())
        inputs = torch.cat([share[0][16 * number : 16 * number + 16] for share in shares]).flatten(1).sum(1)
        whole = images[32 * number : 32 * number + 32].flatten(1).sum(1)
        torch.testing.assert_close(inputs.sort().values, whole.sort().values)


def test_images_that_must_not_be_are_not_mirrored():
    images, _ = augmented(TensorDataset(torch.arange(SIZE).expand(COUNT, 3, SIZE, SIZE).byte(), LABELS), mirror=False)
    middle = images[:, :, SIZE // 2, MARGIN:-MARGIN]
    assert (middle.diff(dim=-1) >= 0).all()


def test_erasing_blanks_a_rectangle_of_some_images_each_its_own():
    grey = TensorDataset(torch.full((COUNT, 3, SIZE, SIZE), 255, dtype=torch.uint8), LABELS)
    loader = loaders.train_batches(data(grey, mirror=False), 0, Loading(32), seed=0, random_erase=0.5)
    blank = (batches(loader)[0] == 0).all(1)
    erased = blank.flatten(1).any(1)
    assert COUNT / 4 < erased.sum() < COUNT * 3 / 4
    assert len({tuple(each.flatten().tolist()) for each in blank[erased]}) > erased.sum() / 2
    for each in blank[erased]:
        assert each.sum() == each.any(0).sum() * each.any(1).sum()
