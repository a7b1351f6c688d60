"""Data sets made by the tests, in every layout that is read."""

import gzip
import io
import random
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from subp.data import loaders
from subp.data.images import Folder, image_parts
from subp_contract.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data"


def jpeg(seed, size=(40, 48), mode="RGB"):
    pixels = random.Random(seed).randbytes(size[0] * size[1] * len(mode))
    file = io.BytesIO()
    Image.frombytes(mode, size, pixels).save(file, "JPEG")
    return file.getvalue()


def tree(per_class, classes=("cat", "dog"), prefix=""):
    """name -> bytes of images, other ones in every class and prefix."""
    return {f"{prefix}{c}/{i}.jpg": jpeg(f"{prefix}{c}{i}") for c in classes for i in range(per_class)}


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_idx(path, values):
    header = b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + bytes(values.flatten().tolist())
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, suffix):
    draws = torch.Generator().manual_seed(0)
    made = {}
    for part, count in (("train", 6), ("t10k", 4)):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=draws)
        labels = (torch.arange(count) % 3).to(torch.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
        made[part] = images, labels
    return made


def all_batches(loader):
    images, labels = zip(*loaders.batches(loader), strict=True)
    return torch.cat(images), torch.cat(labels)


def epoch(loaded, number=0, seed=0, workers=0):
    return all_batches(loaders.train_batches(loaded, number, loaders.Loading(4, workers), seed=seed))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


TWO_PARTS = tree(4, prefix="train/") | tree(2, prefix="val/")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder", TWO_PARTS)


def test_a_zip_gives_the_same_data_as_the_folder(folder, tmp_path):
    loaded = loaders.datasets(folder)
    assert loaded.classes == ["cat", "dog"]
    assert (len(loaded.train), len(loaded.val)) == (8, 4)
    zips = tmp_path / "zips"
    for part in ("train", "val"):
        write_zip(
            zips / f"{part}.zip", {n.removeprefix(f"{part}/"): c for n, c in TWO_PARTS.items() if n.startswith(part)}
        )
    for other in (
        zips,
        write_zip(tmp_path / "one.zip", TWO_PARTS),
        write_zip(tmp_path / "deep.zip", {f"top/{n}": c for n, c in TWO_PARTS.items()}),
    ):
        again = loaders.datasets(other)
        assert again.classes == loaded.classes and again.preprocessing == loaded.preprocessing
        assert same(epoch(again), epoch(loaded))
        assert same(
            all_batches(loaders.val_batches(again, loaders.Loading(3))),
            all_batches(loaders.val_batches(loaded, loaders.Loading(3))),
        )


def test_a_test_part_serves_for_validation(tmp_path):
    write_zip(tmp_path / "train.zip", tree(3))
    write_zip(tmp_path / "test.zip", tree(2))
    assert len(loaders.datasets(tmp_path).val) == 4


def test_images_and_labels_are_those_of_the_files(folder):
    loaded = loaders.datasets(folder)
    for index, name in enumerate(sorted(n for n in TWO_PARTS if n.startswith("val/"))):
        image, label = loaded.val[index]
        assert image.tobytes() == Image.open(io.BytesIO(TWO_PARTS[name])).tobytes()
        assert loaded.classes[label] == name.split("/")[1]


def test_data_in_one_part_is_split_by_the_seed_class_by_class(tmp_path):
    write_folder(tmp_path, tree(10, classes=("a", "b", "c")))
    (tmp_path / "a" / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "README.md").write_text("not an image")

    def names(seed):
        loaded = loaders.datasets(tmp_path, seed=seed)
        return [[part.dataset.names[i] for i in part.indices] for part in (loaded.train, loaded.val)]

    train, val = names(0)
    assert len(train) == 24 and not set(train) & set(val)
    assert sorted(name[0] for name in val) == ["a", "a", "b", "b", "c", "c"]
    assert names(0) == [train, val] and names(1) != [train, val]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_hold_images_and_labels(tmp_path, suffix):
    made = write_mnist(tmp_path, suffix)
    loaded = loaders.datasets(tmp_path)
    assert (loaded.preprocessing.size, loaded.preprocessing.channels, loaded.mirror) == (28, 1, False)
    images, labels = all_batches(loaders.val_batches(loaded, loaders.Loading(3)))
    expected = (made["t10k"][0][:, None].float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == made["t10k"][1].tolist()


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(folder):
    loaded = loaders.datasets(folder, size=24)
    first = epoch(loaded)
    torch.manual_seed(1)
    assert same(epoch(loaded), first)
    assert same(epoch(loaded, workers=2), first)
    assert not torch.equal(epoch(loaded, number=1)[0], first[0])
    assert not torch.equal(epoch(loaded, seed=1)[0], first[0])


def test_loading_leaves_the_global_generator_alone(folder):
    before = torch.get_rng_state()
    epoch(loaders.datasets(folder))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_has_every_image_but_those_of_an_incomplete_last_batch():
    images = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 1, 8, 8) / 10
    loaded = loaders.from_tensors((images, torch.arange(10)), (images, torch.arange(10)), [str(i) for i in range(10)])
    seen = epoch(loaded)[1].tolist()
    assert len(seen) == len(set(seen)) == 8
    assert all_batches(loaders.val_batches(loaded, loaders.Loading(4)))[1].tolist() == list(range(10))
    whole = all_batches(loaders.train_batches(loaded, 0, loaders.Loading(64), seed=0))
    assert sorted(whole[1].tolist()) == list(range(10))


@pytest.mark.parametrize("mirror", [True, False])
def test_only_images_that_may_be_are_mirrored(mirror):
    image = torch.arange(64.0).expand(64, 1, 64, 64) / 63  # brightness rises from left to right
    loaded = loaders.from_tensors((image, torch.zeros(64)), (image, torch.zeros(64)), ["a", "b"], mirror)
    images, _ = epoch(loaded)
    middle = images[:, 0, 32, 16:48]
    falls = (middle[:, -1] < middle[:, 0]).sum().item()
    assert 16 < falls < 48 if mirror else falls == 0


def test_evaluation_resizes_the_shorter_side_and_takes_the_centre(folder):
    loaded = loaders.datasets(folder, size=96)
    image, _ = loaded.val[0]
    p = loaded.preprocessing
    assert (p.size, p.resize, p.channels) == (96, round(96 * 8 / 7), 3)
    height = round(48 * p.resize / 40)
    resized = image.resize((p.resize, height), Image.Resampling.BILINEAR)
    left, top = (p.resize - 96) // 2, round((height - 96) / 2)
    cropped = torch.frombuffer(bytearray(resized.crop((left, top, left + 96, top + 96)).tobytes()), dtype=torch.uint8)
    expected = (cropped.reshape(96, 96, 3).permute(2, 0, 1) / 255 - torch.tensor(p.mean)[:, None, None]) / torch.tensor(
        p.std
    )[:, None, None]
    got = all_batches(loaders.val_batches(loaded, loaders.Loading(1)))[0][0]
    assert (got - expected).abs().mean() < 0.15  # libraries place the crop within half a pixel


def test_digits_are_scikit_learns_scaled_up():
    from sklearn.datasets import load_digits

    loaded = loaders.digits(size=16)
    assert loaded.classes == [str(i) for i in range(10)] and not loaded.mirror
    assert len(loaded.train) + len(loaded.val) == 1797
    images, labels = loaded.val.tensors
    counts = [(load_digits().target == digit).sum() for digit in range(10)]
    assert [(labels == digit).sum().item() for digit in range(10)] == [round(0.2 * count) for count in counts]
    scans = torch.tensor(load_digits().images)
    means = torch.cat([loaded.train.tensors[0], images]).mean((1, 2, 3)).sort().values
    torch.testing.assert_close(means, (scans.mean((1, 2)) / 16).float().sort().values, atol=0.02, rtol=0)
    assert loaders.digits(channels=3).preprocessing.channels == 3


def test_torchvisions_data_sets_load_by_name(tmp_path):
    from subp.common.vision import import_torchvision

    import_torchvision()
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    made = write_mnist(raw, "")
    loaded = loaders.datasets(f"FashionMNIST:{tmp_path}")
    assert len(loaded.classes) == 10 and loaded.mirror
    assert loaded.preprocessing.channels == 1
    assert [loaded.val[i][1] for i in range(4)] == made["t10k"][1].tolist()
    assert not loaders.datasets(f"KMNIST:{_as(tmp_path, 'KMNIST')}").mirror


def _as(folder, name):
    (folder / name).symlink_to(folder / "FashionMNIST")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(tmp_path, workers):
    files = tree(3)
    files["dog/1.jpg"] = files["dog/1.jpg"][:200]
    loaded = loaders.datasets(write_zip(tmp_path / "images.zip", files))
    with pytest.raises(UserError, match=r"^cannot read the image dog/1.jpg in .*images.zip") as raised:
        epoch(loaded, workers=workers), all_batches(loaders.val_batches(loaded, loaders.Loading(4, workers)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_where_it_is_asked_for_another_stands_in_for_a_broken_image_in_training_and_none_in_validation(
    tmp_path, workers
):
    files = tree(3, ("dog",), "train/") | tree(2, ("cat",), "train/") | tree(1, ("cat", "dog"), "val/")
    for name in ("train/cat/0.jpg", "train/dog/2.jpg", "val/dog/0.jpg"):
        files[name] = files[name][:200]
    loaded = loaders.datasets(write_zip(tmp_path / "images.zip", files), skip_broken=True)
    loading, told, seen = loaders.Loading(1, workers, skip_broken=True), [], []
    for loader in (loaders.train_batches(loaded, 0, loading, seed=0), loaders.val_batches(loaded, loading)):
        seen.append(sorted(int(label) for _, labels in loaders.batches(loader, told.append) for label in labels))
    assert seen == [[0, 0, 0, 1, 1], [0]]  # cat 1 stands in for cat 0 and, after the last of all, for dog 2
    assert {sentence.partition(" in ")[0] for sentence in told} == {
        f"cannot read the image {name}" for name in ("train/cat/0.jpg", "train/dog/2.jpg", "val/dog/0.jpg")
    }


def test_where_no_image_can_be_read_there_is_none_to_stand_in(tmp_path):
    (items,) = image_parts(Folder(write_folder(tmp_path, {name: content[:200] for name, content in tree(2).items()})))
    loaded = loaders.Data(items, items, items.classes, loaders.Preprocessing.standard(8, 3), mirror=True)
    with pytest.raises(UserError, match="none of the training images can be read"):
        all_batches(loaders.train_batches(loaded, 0, loaders.Loading(4, skip_broken=True), seed=0))


@pytest.mark.parametrize("zipped", [False, True])
def test_an_empty_class_folder_is_named(tmp_path, zipped):
    write_folder(tmp_path / "tree", tree(3, prefix="train/") | tree(3, prefix="val/"))
    (tmp_path / "tree" / "val" / "eel").mkdir()
    (tmp_path / "tree" / "val" / ".hidden").mkdir()
    path = tmp_path / "tree"
    if zipped:
        path = shutil.make_archive(str(tmp_path / "tree"), "zip", tmp_path / "tree")
    with pytest.raises(
        UserError, match="the class folder val/eel holds no images: put some in, or take the folder away"
    ):
        loaders.datasets(path)


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "holds no images"),
        ({"cat/0.txt": b"text"}, "holds no images"),
        ({"0.jpg": jpeg(0), "cat/1.jpg": jpeg(1)}, "the image 0.jpg lies in no class folder"),
        (tree(3, classes=("cat",)), "has one class only, 'cat'"),
        (tree(1), "too few images"),
        (
            tree(2, prefix="train/") | tree(2, ("cat", "cow"), "val/"),
            "differ in their classes: dog only in training and cow only in validation",
        ),
    ],
)
def test_trees_that_cannot_be_used_are_refused(tmp_path, files, message):
    tmp_path.joinpath("tree").mkdir()
    with pytest.raises(UserError, match=message):
        loaders.datasets(write_folder(tmp_path / "tree", files))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("none", "there is no folder or zip none"),
        ("CIFAR10:none", "CIFAR10 is not .whole. in none"),
        ("EMNIST:none", "EMNIST cannot be given by name alone: it has no split called train"),
        ("CocoCaptions:none", "CocoCaptions cannot be given by name alone: it needs annFile too"),
        ("NoSuchSet:none", "torchvision has no data set 'NoSuchSet'"),
    ],
)
def test_specs_of_nothing_are_refused(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        loaders.datasets(spec)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_images_are_grey_only_if_all_looked_at_are(tmp_path):
    grey, colour = np.zeros((8, 8), "uint8"), np.zeros((8, 8, 3), "uint8")
    files = {f"{c}/{i}.png": png(grey) for c in "ab" for i in range(5)}
    assert loaders.datasets(write_folder(tmp_path / "grey", files)).preprocessing.channels == 1
    files |= {f"b/{i}.png": png(colour) for i in range(5)}
    assert loaders.datasets(write_folder(tmp_path / "mixed", files)).preprocessing.channels == 3


def test_folders_around_the_classes_are_left_out(tmp_path):
    for prefix in ("top/", "train/", "top/train/"):
        for files in (write_folder, lambda path, files: write_zip(path.with_suffix(".zip"), files)):
            loaded = loaders.datasets(files(tmp_path / prefix.replace("/", "-"), tree(4, prefix=prefix)))
            assert loaded.classes == ["cat", "dog"]
            assert (len(loaded.train), len(loaded.val)) == (6, 2)


def test_the_only_image_of_a_class_is_for_training():
    assert loaders.stratified_split([0, 0, 1], seed=0) in (([0, 2], [1]), ([1, 2], [0]))


def test_broken_archives_are_refused(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", tree(3)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"cut.zip is not a zip file, or truncated"):
        loaders.datasets(tmp_path / "cut.zip")
    (tmp_path / "images.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"images.tar is neither a folder nor a .zip"):
        loaders.datasets(tmp_path / "images.tar")


@pytest.mark.parametrize(
    "cut, message", [(slice(0, -3), "truncated"), (slice(0, 2), "not an idx file"), (slice(0, 9), "truncated")]
)
def test_broken_idx_files_are_refused(tmp_path, cut, message):
    write_mnist(tmp_path, "")
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(UserError, match=message):
        loaders.datasets(tmp_path)


def test_incomplete_idx_folders_are_refused(tmp_path):
    write_mnist(tmp_path, ".gz")
    content = (tmp_path / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"cannot read .*t10k-labels-idx1-ubyte.gz"):
        loaders.datasets(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="has no t10k-labels-idx1-ubyte file"):
        loaders.datasets(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")
@pytest.mark.parametrize(
    "name, counts, size, channels",
    [
        ("cifar10-jpeg", (50_000, 10_000), 32, 3),
        ("imagenette-112", (9_469, 3_925), 112, 3),
        ("mnist", (60_000, 10_000), 28, 1),
    ],
)
def test_the_shared_data_sets_load(name, counts, size, channels):
    loaded = loaders.datasets(SHARED / name)
    assert (len(loaded.train), len(loaded.val)) == counts and len(loaded.classes) == 10
    images, labels = next(loaders.batches(loaders.train_batches(loaded, 0, loaders.Loading(32), seed=0)))
    assert images.shape == (32, channels, size, size) and labels.unique().numel() > 3
