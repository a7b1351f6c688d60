"""Folders and zips as people have them: parts by other names, helpers' folders, links, files that are no images."""

import shutil
import warnings
import zipfile

import pytest
from PIL import Image

from subp.data import loaders
from subp.data.parts import find_parts
from subp_contract.errors import Notice, UserError


def tree(folder, *names, suffix=".png"):
    """Three tiny images in each folder of these names."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.new("L", (4, 4), number).save(folder / name / f"{number}{suffix}", "PNG")
    return folder


def zipped(folder):
    return shutil.make_archive(str(folder), "zip", folder)


@pytest.mark.parametrize(
    "train, val",
    [
        ("train", "val"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("Training", "Testing"),
        ("training", "validation"),
        ("train", "dev"),
        ("train", "Eval"),
        ("seg_train", "seg_test"),
        ("train_images", "test_images"),
        ("train2017", "val2017"),
        ("trainset", "testset"),
        ("TrainImages", "ValidData"),
        ("dogs-train", "dogs-val"),
    ],
)
def test_parts_are_known_by_the_words_in_their_names(train, val):
    assert find_parts([val, "extra", train]) == (train, val)
    assert find_parts([train]) is None and find_parts([val, "extra"]) is None


def test_validation_goes_before_test_and_other_words_must_agree():
    assert find_parts(["test", "train", "val", "valid"]) == ("train", "val")
    assert find_parts(["train_station", "test_tube"]) is None
    assert find_parts(["trainer", "test"]) is None
    assert find_parts(["a_train", "b_train", "b_test"]) == ("b_train", "b_test")


@pytest.mark.parametrize("as_zip", [False, True])
def test_parts_by_other_names_are_no_classes(tmp_path, as_zip):
    folder = tree(tmp_path / "set", *(f"{part}/{c}" for part in ("Training", "Testing") for c in ("cat", "dog")))
    data = loaders.datasets(zipped(folder) if as_zip else folder)
    assert data.classes == ["cat", "dog"] and len(data.train) == len(data.val) == 6
    assert {name.split("/")[0] for name in data.train.names} == {"Training"}


def test_zips_by_other_names_are_parts(tmp_path):
    for part in ("Train", "Test"):
        zipped(tree(tmp_path / "made" / part, "cat", "dog"))
    (tmp_path / "set").mkdir()
    for part in ("Train", "Test"):
        (tmp_path / "made" / f"{part}.zip").rename(tmp_path / "set" / f"{part}.zip")
    data = loaders.datasets(tmp_path / "set")
    assert data.classes == ["cat", "dog"] and len(data.train) == len(data.val) == 6


def test_parts_that_are_not_understood_are_refused(tmp_path):
    folder = tree(tmp_path, *(f"{part}/{c}" for part in ("train", "rest") for c in ("cat", "dog")))
    with pytest.raises(UserError, match=r"train and rest hold the same folders, as parts .* do, not classes: call"):
        loaders.datasets(folder)


def test_parts_without_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="lies in no class folder"):
        loaders.datasets(tree(tmp_path, "Train", "Test"))


def test_a_class_may_be_called_train(tmp_path):
    assert loaders.datasets(tree(tmp_path, "bus", "train/steam", "train/express")).classes == ["bus", "train"]


@pytest.mark.parametrize("as_zip", [False, True])
def test_what_systems_put_beside_images_is_no_class_and_not_told_of(tmp_path, as_zip):
    folder = tree(tmp_path / "set", "cat", "dog", "@eaDir", "__pycache__", "cat/@eaDir/0.png", ".git", "dog/#recycle")
    (folder / "cat" / "Thumbs.db").write_bytes(b"")
    (folder / "README.md").write_text("words")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = loaders.datasets(zipped(folder) if as_zip else folder)
    assert data.classes == ["cat", "dog"] and len(data.train) + len(data.val) == 6


def test_files_that_are_left_out_are_told(tmp_path):
    tree(tmp_path, "cat", "dog")
    tree(tmp_path, "dog", suffix=".jfif")
    tree(tmp_path, "cat", suffix=".heic")
    with pytest.warns(Notice, match=r"files are left out that are no images by their names: 3 of \.heic$"):
        data = loaders.datasets(tmp_path)
    assert len(data.train) + len(data.val) == 9


def test_folders_that_are_left_out_are_told(tmp_path):
    folder = tree(tmp_path, *(f"{part}/{c}" for part in ("train", "val", "spare") for c in ("cat", "dog")))
    with pytest.warns(Notice, match="images besides train and val are left out: spare"):
        assert len(loaders.datasets(folder).train) == 6


def test_links_are_followed_but_not_in_a_circle(tmp_path):
    folder = tree(tmp_path / "set", "cat", "dog")
    elsewhere = tree(tmp_path / "elsewhere", "eel")
    (folder / "eel").symlink_to(elsewhere / "eel")
    (folder / "cat" / "up").symlink_to("..")
    (folder / "dog" / "further-up").symlink_to(tmp_path)
    (folder / "dog" / "aside").symlink_to("../cat")  # and there a link to this folder
    (folder / "cat" / "aside").symlink_to("../dog")
    (folder / "round").symlink_to(".")
    data = loaders.datasets(folder)
    assert data.classes == ["cat", "dog", "eel"]
    assert len(data.train) + len(data.val) == 3 * 5  # each of cat and dog once more through the other


def test_a_damaged_member_of_a_zip_is_named_or_done_without(tmp_path):
    path = tmp_path / "set.zip"
    tree(tmp_path / "set", "cat", "dog")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)):
            archive.write(tmp_path / "set" / name, name)
        at = archive.getinfo("cat/1.png").header_offset + 30 + len("cat/1.png")
    raw = bytearray(path.read_bytes())
    raw[at] = 0xFF  # a block type that deflate has not
    path.write_bytes(raw)
    data = loaders.datasets(path, skip_broken=True)
    told = []
    for loading in (loaders.Loading(1, skip_broken=True), loaders.Loading(1)):
        loaded = [loaders.train_batches(data, 0, loading, seed=0), loaders.val_batches(data, loading)]
        if loading.skip_broken:
            for loader in loaded:
                list(loaders.batches(loader, told.append))
        else:
            with pytest.raises(UserError, match=r"^cannot read the image cat/1.png in .*: Error -3"):
                for loader in loaded:
                    list(loaders.batches(loader))
    assert all(sentence.startswith("cannot read the image cat/1.png") for sentence in told) and told
