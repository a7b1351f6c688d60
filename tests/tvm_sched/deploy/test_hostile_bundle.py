"""Bundles that were damaged, or made to do harm, run under AddressSanitizer and UndefinedBehaviorSanitizer: one
sentence, or what the whole bundle gives.
"""

import io
import os
import random
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.deploy import bundle

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here to build the runner with")
SANITIZED = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An unpacked bundle of a small network, whose runner is sanitized."""
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()).eval()
    artifact = tvm_sched.compile(network, torch.zeros(1, 3, 8, 8), threads=1)
    artifact.save(folder / "net.so")
    try:
        contents, _ = bundle.contents(folder / "net.so", f"g++ {SANITIZED}")
    except UserError as error:
        pytest.skip(f"no sanitizers here: {error}")
    with tarfile.open(fileobj=io.BytesIO(bundle.archive(contents, "net"))) as archive:
        archive.extractall(folder, filter="data")
    np.save(folder / "x.npy", np.ones((1, 3, 8, 8), "float32"))
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """The same, to spoil."""
    return shutil.copytree(whole, tmp_path / "spoilt")


def run(folder, *arguments):
    """(exit code, what is said): a sentence for code 2, and no report of a sanitizer."""
    done = subprocess.run(
        [folder / "net" / "run.sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=folder,
        timeout=600,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0"},
    )
    assert done.returncode in (0, 1, 2) and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, (
        done.stderr[-2000:]
    )
    if done.returncode == 2:
        assert done.stderr.startswith("run.sh: ") and done.stderr.count("\n") == 1
    return done.returncode, done.stdout + done.stderr


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a bit turned, a part cut out, or bytes put in."""
    at, raw = rng.randrange(len(content)), bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        raw[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del raw[at:]
    elif kind == 2:
        raw[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f", b"99999999999999999999"])
    else:
        del raw[at : at + rng.randrange(1, 9)]
    return bytes(raw)


def test_the_whole_bundle_runs(whole):
    assert run(whole, "--check")[0] == 0
    assert run(whole, "x.npy", "-o", "y.npy")[0] == 0


@pytest.mark.parametrize("name", ["net.so", "network.txt"])
def test_no_bit_of_library_and_description_may_turn(folder, name):
    rng, path = random.Random(0), folder / "net" / name
    content = path.read_bytes()
    for _ in range(6):
        raw = bytearray(content)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        code, said = run(folder, "--check")
        assert code == 2 and ("unpack the bundle again" in said or "this bundle is for" in said)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("parts 1", "parts 0"),
        ("parts 1", "parts -1"),
        ("parts 1", "parts 3"),
        ("threads 1", "threads 0"),
        (" 1 16 6 6", " 1 16 600 600"),
        (" 1 16 6 6", " -1 -16 6 6"),
        (" 1 16 6 6", " 9223372036854775807 16 6 6"),
        ("output output <f4", "output output <q9"),
        ("output output <f4", "output"),
    ],
)
def test_a_description_that_lies_is_refused(folder, old, new):
    path = folder / "net" / "network.txt"
    text = path.read_text().rpartition("checksum ")[0]
    assert old in text, text
    path.write_text(bundle.summed(text.replace(old, new)))
    code, said = run(folder, "--check")
    assert code == 2 and "network.txt" in said


def test_expected_outputs_that_hold_nothing_do_not_pass(folder):
    path = folder / "net" / "check" / "outputs.npz"
    np.savez(path, output=np.zeros(0, "float32"))
    assert "does not hold what the network's check needs" in run(folder, "--check")[1]


@pytest.mark.parametrize("name", ["x.npy", "net/check/inputs.npz", "net/check/outputs.npz"])
def test_damaged_arrays_are_a_sentence_or_right(folder, name):
    content, rng = (folder / name).read_bytes(), random.Random(1)
    for _ in range(12):
        (folder / name).write_bytes(damaged(content, rng))
        run(folder, *(("x.npy", "-o", "y.npy") if name == "x.npy" else ("--check",)))


@pytest.mark.parametrize("dtype", ["<f1", "<f3", "|V1", "<u16", "<f9"])
def test_an_array_of_no_number_is_refused(folder, dtype):
    content = (folder / "x.npy").read_bytes()
    (folder / "x.npy").write_bytes(content.replace(b"'<f4'", f"'{dtype}'".encode()))
    code, said = run(folder, "x.npy", "-o", "y.npy")
    assert code == 2 and "no numbers that networks take" in said


def test_outputs_go_through_links_and_devices(folder):
    (folder / "there.npy").symlink_to(folder / "target.npy")
    (folder / "target.npy").write_bytes(b"old")
    assert run(folder, "x.npy", "-o", "there.npy")[0] == 0
    assert (folder / "there.npy").is_symlink() and np.load(folder / "target.npy").shape == (1, 16, 6, 6)
    assert run(folder, "x.npy", "-o", "/dev/stdout")[0] == 0
    os.mkfifo(folder / "pipe.npy")
    assert "is no regular file" in run(folder, "pipe.npy", "-o", "y.npy")[1]
