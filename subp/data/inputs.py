"""A data set's items as batches of inputs, with what could not be read."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from subp.data.batch_transforms import BatchTransform
from subp.data.decoding import UNREADABLE
from subp.data.labels import class_number
from subp_contract.errors import UserError, require

Batch = tuple[Tensor, Tensor, list[str]]


class Inputs(Dataset):
    """(images [B, C, S, S], labels [B], why images could not be read) of several of a data set's items at a time, which
    is how a DataLoader asks for them.

    An image that cannot be read raises a UserError. With `skip_broken` it is left out instead, or with `replace` too,
    the next image that can be read stands in for it; UserError where there is none.
    """

    def __init__(self, items: Dataset, transform: BatchTransform, skip_broken: bool, replace: bool) -> None:
        self.items, self.transform, self.skip_broken, self.replace = items, transform, skip_broken, replace
        self._held = _held(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        if self._held:
            images, labels, places = self._held
            where = torch.as_tensor(indices) if places is None else places[indices]
            return self.transform(images[where], indices), labels[where], []
        broken: list[str] = []
        found = [(index, *item) for index in indices if (item := self._readable(index, broken))]
        if not found:
            return torch.empty(0), torch.empty(0, dtype=torch.long), broken
        numbers, images_found, labels_found = zip(*found, strict=True)
        return self.transform(images_found, numbers), torch.tensor(labels_found), broken

    def _readable(self, index: int, broken: list[str]) -> tuple[Any, int] | None:
        """(image, label) of the item, or of what stands in for it; else None. `broken` is told what is unreadable."""
        for step in range(len(self) if self.replace else 1):
            try:
                image, label = self._item((index + step) % len(self))
            except UserError as error:
                if not self.skip_broken:
                    raise
                broken.append(str(error))
                continue
            return image, class_number(label, index)
        require(not self.replace, "none of the training images can be read")
        return None

    def _item(self, index: int) -> tuple[Any, Any]:
        try:
            return self.items[index]
        except UserError:
            raise
        except UNREADABLE as error:
            raise UserError(f"cannot read image {index}: {error}") from error


def as_it_is(batch: Batch) -> Batch:
    """The batch: it is collated already."""
    return batch


def _held(items: Dataset) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """(images, labels, which of them the items are, None for all) of a data set that is held as tensors."""
    if isinstance(items, Subset) and (inner := _held(items.dataset)):
        places = torch.as_tensor(items.indices)
        return inner[0], inner[1], places if inner[2] is None else inner[2][places]
    if isinstance(items, TensorDataset) and len(items.tensors) == 2:
        images, labels = items.tensors
        if images.ndim == 4 and labels.ndim == 1 and labels.dtype == torch.long:
            return images, labels, None
    return None
