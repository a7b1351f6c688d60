"""Every kind of file that a command reads: how a whole one is damaged, and how a command opens it.

`FORMATS` has them by name; `scripts/whole_files.py` makes the whole ones. Opening is the command itself in this
process, or where that would compute for long the function by which it reads.
"""

import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mutations
from mutations import Mutation
from tvm.rpc import base
from whole_files import NETWORK, PIXELS, X, one_core, sparse_layer, task

import tvm_sched
from subp import cli
from subp.data import loaders, transforms
from subp.data.decoding import open_image
from subp.training import experiments, trainer
from tvm_sched import targets
from tvm_sched.bench import suite
from tvm_sched.deploy import bundle
from tvm_sched.frontend import torch_export
from tvm_sched.frontend.sources import network_of
from tvm_sched.records.database import Records
from tvm_sched.records.fastest import BestRecords
from tvm_sched.tuning.tracker import Tracker

COMPILED = 40  # one in so many mutated records is compiled with, which takes a second
BEST, FORMS = "best.jsonl", "forms.jsonl"
WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    file: str  # its name in the folder that `whole_files.make_whole` fills
    mutate: Mutation
    open: Callable[[Path, int], int]  # (a damaged one's path, its number) -> exit code
    beside: tuple[str, ...] = ()  # other files that must lie in its folder
    share: float = 1.0  # of the files, which may take long


def command(*words: str) -> Callable[[Path, int], int]:
    """The command line of these words, PATH being the file, FOLDER its folder."""

    def opened(path: Path, number: int) -> int:
        places = {"PATH": str(path), "FOLDER": str(path.parent)}
        return cli.exit_code([places.get(word, word.replace("FOLDER/", f"{path.parent}/")) for word in words])

    return opened


def function(read: Callable[[Path], object]) -> Callable[[Path, int], int]:
    """What reads the file for a command, in the command line's guard."""

    def opened(path: Path, number: int) -> int:
        def work() -> int:
            read(path)
            return 0

        return cli.guarded(work)

    return opened


def by_turns(*ways: Callable[[Path, int], int]) -> Callable[[Path, int], int]:
    """Each file in one of these ways."""
    return lambda path, number: ways[number % len(ways)](path, number)


def with_records(path: Path, number: int) -> int:
    """As compiling takes records: looked up, replayed, checked; some are compiled with, and that checked."""
    if number % COMPILED == 0:
        return function(lambda path: tvm_sched.compile(sparse_layer(), X, threads=1, records=path.parent))(path, number)
    kind = BestRecords if path.name == BEST else Records

    def looked_up(path: Path) -> None:
        known = kind(path.parent, one_core())
        if (found := known.lookup(task().func)) is not None:
            found.schedule.mod.script()
        known.form_times.of("a layer")

    return function(looked_up)(path, number)


def with_merge(path: Path, number: int) -> int:
    """As `subp tune --best` takes them."""
    return cli.exit_code(["tune", "--merge", str(path.parent), "--best", str(path.parent / "merged")])


def images(path: Path) -> None:
    """Each image of the data set, as training and evaluating read them."""
    data, loading = loaders.datasets(path if path.suffix == ".zip" else path.parent, size=PIXELS), loaders.Loading(4)
    for loader in (loaders.train_batches(data, 0, loading, seed=0), loaders.val_batches(data, loading)):
        for _ in loaders.batches(loader):
            pass


def decoded(path: Path) -> None:
    """An image, as `subp run` prepares it."""
    transforms.evaluation(transforms.Preprocessing.standard(PIXELS, 3))(open_image(path))


def imported(path: Path) -> None:
    """An ONNX file as compiling takes it in: loaded, exported, converted to Relax."""
    network, inputs = network_of(path)
    torch_export.from_torch(network, inputs)


def run_bundle(path: Path, number: int) -> int:
    """The runner in the bundle that the file is of."""
    folder = next(parent for parent in path.parents if parent.name == "net")
    done = subprocess.run([folder / "run.sh", "--check"], capture_output=True, text=True, errors="replace", timeout=60)
    print(done.stderr.replace("run.sh: ", "subp: "), end="", file=sys.stderr)
    return done.returncode


def ask_tracker(path: Path, number: int) -> int:
    """What `subp doctor --tracker` makes of an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_answer, args=(server, path.read_bytes()), daemon=True)
        answering.start()
        code = function(lambda _: Tracker(f"127.0.0.1:{server.getsockname()[1]}").kinds())(path, number)
        answering.join(10)
    return code


def _answer(server: socket.socket, content: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4)
        connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        connection.recv(1000)
        connection.sendall(struct.pack("<i", len(content)) + content)


def of_program(content: bytes, rng: random.Random) -> bytes:
    """A .pt2 or .pth file, JSON and pickles in it."""
    return mutations.of_zip(
        content, rng, lambda name: mutations.of_json if name.endswith(".json") else mutations.of_bytes
    )


def of_archive(content: bytes, rng: random.Random) -> bytes:
    """A zip of images or arrays."""
    return mutations.of_zip(
        content, rng, lambda name: mutations.of_arrays if name.endswith(".npy") else mutations.of_bytes
    )


def of_description(content: bytes, rng: random.Random) -> bytes:
    """A bundle's description, with the right checksum or without."""
    changed = mutations.of_bytes(content, rng)
    return (
        changed if rng.random() < 0.5 else bundle.summed(changed.rpartition(b"checksum")[0].decode("latin1")).encode()
    )


INSPECT = command("inspect", "PATH")
CODED = command("inspect", "PATH", "--code", NETWORK)
REPORT = command("report", "PATH", "-o", "FOLDER/page.html")
RESUME = command("train", "FOLDER/images.zip", "-o", "FOLDER", "--resume", "--epochs", "1", "--workers", "0")
RUN = command("run", "FOLDER/net.so", "PATH")
FORMATS = {
    "fastest records": Format(BEST, mutations.of_lines, by_turns(with_records, with_records, with_merge)),
    "forms": Format(FORMS, mutations.of_lines, by_turns(with_records, with_merge), (WORKLOADS, RECORDS)),
    "tuning records": Format(RECORDS, mutations.of_lines, by_turns(with_records, with_merge), (WORKLOADS,)),
    "workloads": Format(WORKLOADS, mutations.of_lines, by_turns(with_records, with_merge), (RECORDS,)),
    "npy": Format("x.npy", mutations.of_arrays, RUN, ("net.so",)),
    "npz": Format("x.npz", of_archive, RUN, ("net.so",)),
    "compiled": Format(
        "net.so", mutations.of_bytes, by_turns(command("run", "PATH", "FOLDER/x.npy"), INSPECT), ("x.npy",)
    ),
    "manifest": Format(
        "net.so", mutations.of_manifest, by_turns(INSPECT, command("inspect", "PATH", "--threads", "1,2"))
    ),
    "bundle's inputs": Format("bundle/net/check/inputs.npz", of_archive, run_bundle, share=0.3),
    "bundle's outputs": Format("bundle/net/check/outputs.npz", of_archive, run_bundle, share=0.3),
    "bundle's network": Format("bundle/net/net.so", mutations.of_bytes, run_bundle, share=0.3),
    "bundle's description": Format("bundle/net/network.txt", of_description, run_bundle, share=0.3),
    "grid": Format("grid.yaml", mutations.of_yaml, function(experiments.read_grid)),
    "suite": Format("suite.json", mutations.of_json, function(lambda path: suite.read(str(path)))),
    "suite of layers": Format("layers.json", mutations.of_json, function(lambda path: suite.read(str(path)))),
    "target": Format("target.json", mutations.of_json, function(lambda path: targets.get(str(path)))),
    "tracker's answer": Format("tracker.json", mutations.of_json, ask_tracker),
    "measurements": Format("bench.json", mutations.of_json, REPORT),
    "results": Format("results.csv", mutations.of_text, function(experiments.read_rows)),
    "checkpoint": Format(trainer.CHECKPOINT, mutations.of_safetensors, by_turns(INSPECT, REPORT)),
    "trained network": Format(trainer.MODEL, mutations.of_safetensors, by_turns(INSPECT, CODED)),
    "resumed run": Format(trainer.CHECKPOINT, mutations.of_safetensors, RESUME, ("images.zip",), share=0.5),
    "state dict": Format("state.safetensors", mutations.of_safetensors, CODED),
    "pth": Format(
        "state.pth",
        of_program,
        by_turns(CODED, CODED, CODED, command("convert", "PATH", "-o", "FOLDER/made.safetensors")),
    ),
    "pt2": Format("net.pt2", of_program, INSPECT),
    "onnx": Format("net.onnx", mutations.of_onnx, by_turns(INSPECT, function(lambda path: imported(path)))),
    "zip of images": Format("images.zip", of_archive, function(images)),
    "idx": Format(
        "train-images-idx3-ubyte.gz",
        mutations.of_gzip,
        function(images),
        tuple(
            f"{part}-{kind}-ubyte.gz"
            for part, kind in (("train", "labels-idx1"), ("t10k", "images-idx3"), ("t10k", "labels-idx1"))
        ),
    ),
    **{
        kind: Format(f"image.{kind}", mutations.of_bytes, function(lambda path: decoded(path)))
        for kind in ("png", "jpeg", "bmp", "gif", "tiff", "webp")
    },
}
