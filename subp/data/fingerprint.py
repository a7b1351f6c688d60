"""Whether the images are those of before, by names and labels; pixels are not looked at."""

import hashlib
import json

from torch.utils.data import Dataset, Subset, TensorDataset

from subp.data.images import ImageFiles


def fingerprint(items: Dataset) -> tuple[int, str]:
    """(number of images; a digest) of a part of the data: other images, or the same ones in another order, give another
    digest. Where the data set tells neither names nor labels, it is their number that counts.
    """
    content = json.dumps(_content(items)).encode()
    return len(items), hashlib.blake2b(content, digest_size=8).hexdigest()


def _content(items: Dataset) -> list:
    if isinstance(items, Subset):
        return [_content(items.dataset), list(items.indices)]
    if isinstance(items, ImageFiles):
        return [name.removeprefix(items.prefix) for name in items.names]
    if isinstance(items, TensorDataset):
        return [list(items.tensors[0].shape), items.tensors[1].tolist()]
    return [len(items)]
