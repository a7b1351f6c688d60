"""Labels: class numbers from 0, one an image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from subp_contract.errors import UserError, require


def class_numbers(labels: Any, images: int, classes: Sequence[str]) -> Tensor:
    """int64 [B] of labels [B] or [B, 1] in a tensor, an array or a list, of whole numbers in whatever type.

    Raises UserError for others, such as one-hot ones, for numbers that no class has, and for more or fewer than there
    are images.
    """
    try:
        numbers = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the labels are no numbers ({error}): give each image the number of its class") from error
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    require(
        numbers.ndim == 1,
        f"labels are class numbers, one an image, not {list(numbers.shape)}: of one-hot labels take argmax(1)",
    )
    require(len(numbers) == images, f"there are {images} images and {len(numbers)} labels")
    wrong = numbers[~((numbers >= 0) & (numbers < len(classes)))]
    require(
        not len(wrong), f"an image has the label {wrong[:1].tolist()}, and there are {len(classes)} classes, from 0"
    )
    whole = numbers.long()
    fractions = numbers[whole != numbers]
    require(not len(fractions), f"an image has the label {fractions[:1].tolist()}: labels are whole class numbers")
    return whole


def class_number(label: Any, index: int) -> int:
    """The label of a data set's item, as a number. Raises UserError where it is none."""
    try:
        number = int(label)
        if number == label:
            return number
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pass
    raise UserError(f"item {index} has the label {str(label)[:60]}: labels are class numbers, one an image")
