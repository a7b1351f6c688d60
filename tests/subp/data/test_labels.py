"""Images and labels in memory: which kinds are taken, and what is said of others."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from subp.data import loaders
from subp.data.fingerprint import fingerprint
from subp.data.preprocessing import Preprocessing
from subp_contract.errors import UserError

CLASSES = ["a", "b", "c"]
IMAGES, LABELS = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 2, 1, 0])
ONE_HOT = torch.nn.functional.one_hot(LABELS)


@pytest.mark.parametrize(
    "labels",
    [LABELS.int(), LABELS.byte(), LABELS.double(), LABELS[:, None], LABELS.numpy(), LABELS.tolist()],
    ids=["int32", "uint8", "float64", "column", "array", "list"],
)
def test_class_numbers_of_any_type_are_the_same_labels(labels):
    data = loaders.from_tensors((IMAGES.numpy(), labels), (IMAGES, labels), CLASSES)
    for part in (data.train, data.val):
        assert torch.equal(part.tensors[0], IMAGES) and torch.equal(part.tensors[1], LABELS)
    assert next(iter(loaders.val_batches(data, loaders.Loading(6))))[1].tolist() == LABELS.tolist()


def test_two_classes_may_be_false_and_true():
    data = loaders.from_tensors((IMAGES, LABELS == 1), (IMAGES, LABELS == 1), ["no", "yes"])
    assert data.train.tensors[1].tolist() == [0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(
    "labels, message",
    [
        (ONE_HOT, r"labels are class numbers, one an image, not \[6, 3\]: of one-hot labels take argmax\(1\)"),
        (LABELS + 0.5, r"an image has the label \[0.5\]: labels are whole class numbers"),
        (LABELS * float("nan"), r"an image has the label \[nan\], and there are 3 classes, from 0"),
        (LABELS + 1, r"an image has the label \[3\], and there are 3 classes, from 0"),
        (LABELS - 1, r"an image has the label \[-1\], and"),
        (LABELS[:5], "there are 6 images and 5 labels"),
        (["a"] * 6, "the labels are no numbers"),
        ([[0], [0, 1]], "the labels are no numbers"),
    ],
)
def test_other_labels_are_refused(labels, message):
    for parts in (((IMAGES, labels), (IMAGES, LABELS)), ((IMAGES, LABELS), (IMAGES, labels))):
        with pytest.raises(UserError, match=message):
            loaders.from_tensors(*parts, CLASSES)


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(6, 2, 8, 8), "1 or 3 channels, grey or colour, not 2"),
        (torch.zeros(6, 8, 8), r"images are \[B, C, S, S\], uint8 or fractions, not \[6, 8, 8\]"),
        (np.zeros((6, 1, 8, 8), "int64"), r"not \[6, 1, 8, 8\] of torch.int64"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        loaders.from_tensors((images, LABELS), (images, LABELS), CLASSES)


class Own(Dataset):
    """A data set of the user's."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return IMAGES[index], self.labels[index]


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("labels", [ONE_HOT, LABELS + 0.5, LABELS * float("nan"), ["cat"] * 6, [None] * 6])
def test_an_items_label_that_is_no_class_number_is_no_broken_image(labels, skip_broken):
    data = loaders.Data(Own(labels), Own(LABELS), CLASSES, Preprocessing.standard(8, 1), mirror=False)
    loading = loaders.Loading(2, skip_broken=skip_broken)
    with pytest.raises(UserError, match=r"has the label .*: labels are class numbers, one an image"):
        list(loaders.batches(loaders.train_batches(data, 0, loading, seed=0)))


def test_fingerprints_tell_other_images_labels_and_splits_apart(tmp_path):
    data = loaders.from_tensors((IMAGES, LABELS), (IMAGES[:4], LABELS[:4]), CLASSES)
    again = loaders.from_tensors((IMAGES + 1, LABELS), (IMAGES[:4], 2 - LABELS[:4]), CLASSES)
    assert fingerprint(data.train) == fingerprint(again.train) and fingerprint(data.train)[0] == 6
    assert fingerprint(data.val) != fingerprint(again.val)
    halves = [torch.utils.data.Subset(data.train, part) for part in ([0, 1, 2], [0, 1, 3])]
    assert fingerprint(halves[0]) != fingerprint(halves[1])
    assert fingerprint(Own(LABELS)) == fingerprint(Own(2 - LABELS)) != fingerprint(Own(LABELS[:3]))
