"""Runs at the edges: batches of one image, images that changed between two runs, networks with state of other kinds."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from subp.data import loaders
from subp.training import checkpoint, loop, trainer
from subp.training.config import Config
from subp_contract.errors import UserError

CONFIG = Config(method="dense", epochs=1, batch_size=4, lr=0.01)


def images(count):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count)), torch.arange(count) % 2


DATA = loaders.from_tensors(images(13), images(5), ["a", "b"])


def net(pixels=True):
    """With `pixels`, batch norm sees several of them an image; else one."""
    torch.manual_seed(0)
    size = 2 if pixels else 1
    pool, head = nn.AdaptiveAvgPool2d(size), nn.Linear(4 * size**2, 2)
    return nn.Sequential(nn.Conv2d(1, 4, 3), pool, nn.BatchNorm2d(4), nn.Flatten(), head)


def train(data=DATA, model=None, output=None, resume=False, **options):
    return trainer.train(data, replace(CONFIG, **options), model=model or net(), output=output, resume=resume)


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"accumulate": 4}, {"batch_size": 5, "accumulate": 3}, {"accumulate": 9}]
)
def test_one_image_alone_is_refused_at_once_where_batch_norm_needs_more(options):
    with pytest.raises(UserError, match=r"cannot train on one image alone, as with batch_size = .* and accum"):
        train(model=net(pixels=False), **options)
    assert len(train(**options).history) == 1  # it has more pixels


@pytest.mark.parametrize(
    "batch, parts, sizes", [(7, 3, [3, 2, 2]), (9, 4, [3, 2, 2, 2]), (8, 4, [2] * 4), (2, 4, [1, 1])]
)
def test_parts_of_a_batch_are_as_equal_as_can_be(batch, parts, sizes):
    seen = []
    model = net()
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(len(inputs[0])))
    x, y = images(batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop.train_epoch(model, [(x, y)], optimizer, lambda step: 0.1, accumulate=parts)
    assert seen == sizes


def test_lazy_layers_get_their_weights_from_the_images_size():
    torch.manual_seed(0)
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    model = train(model=lazy).model
    assert model[0].weight.shape == (4, 1, 3, 3) and model[2].weight.shape == (2, 144)


def write(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(folder / name)


def test_a_run_resumes_with_its_own_images_only(tmp_path):
    folder = tmp_path / "set"
    write(folder, [f"{c}/{i:02}.png" for c in ("cat", "dog") for i in range(10)])
    train(loaders.datasets(folder), output=tmp_path / "run")
    again = train(loaders.datasets(folder), output=tmp_path / "run", resume=True)
    assert len(again.history) == 1
    write(folder, ["cat/00a.png"])  # the split is drawn anew
    with pytest.raises(UserError, match="run to resume has 16 training images, here are 17, not the same ones"):
        train(loaders.datasets(folder), output=tmp_path / "run", resume=True)
    (folder / "cat/01.png").unlink()
    with pytest.raises(UserError, match="run to resume has 16 training images, here are 16, not the same ones"):
        train(loaders.datasets(folder), output=tmp_path / "run", resume=True)


def test_a_run_from_before_images_were_told_apart_resumes(tmp_path):
    train(output=tmp_path)
    saved = checkpoint.load(tmp_path / trainer.CHECKPOINT)
    del saved.metadata["data"]
    checkpoint.save(tmp_path / trainer.CHECKPOINT, saved)
    assert len(train(output=tmp_path, resume=True).history) == 1
