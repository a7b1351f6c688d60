"""Every kind of file that a command reads: a whole one, how it is damaged, and how a command opens it.

`FORMATS` has them by name. A whole file is made once, of a network of one small layer and a run of one epoch; opening
is the command itself in this process, or where that would compute for long the function by which it reads.
"""

import gzip
import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import mutations
import numpy as np
import onnx
import torch
import yaml
from mutations import Mutation
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from tvm.rpc import base

import tvm_sched
from subp import cli, models
from subp.data import loaders, transforms
from subp.data.decoding import open_image
from subp.training import experiments, trainer
from subp.training.config import Config
from tvm_sched import pipeline, targets
from tvm_sched.bench import suite
from tvm_sched.deploy import bundle
from tvm_sched.frontend import torch_export
from tvm_sched.frontend.sources import network_of
from tvm_sched.pipeline import Compilation
from tvm_sched.records.database import Records
from tvm_sched.records.fastest import BestRecords, write_best
from tvm_sched.records.form_times import FormTimes
from tvm_sched.tuning.tiles import Space, Task, tasks_of
from tvm_sched.tuning.tracker import Tracker

NETWORK, CLASSES, PIXELS = "resnet20", 3, 8
COMPILED = 40  # one in so many mutated records is compiled with, which takes a second
BEST, FORMS = "best.jsonl", "forms.jsonl"
WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    file: str  # its name in the folder that `make_whole` fills
    mutate: Mutation
    open: Callable[[Path, int], int]  # (a damaged one's path, its number) -> exit code
    beside: tuple[str, ...] = ()  # other files that must lie in its folder
    share: float = 1.0  # of the files, which may take long


def sparse_layer() -> nn.Module:
    """A 1x1 convolution of 16 channels; of two blocks of 1x16 one is zero."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU()).eval()
    network[0].weight.data[:, ::2] = 0
    return network


X = torch.ones(1, 16, 4, 4)


def one_core() -> targets.Target:
    """This machine's target for one thread."""
    return replace(targets.host(), cores=1)


@cache
def task() -> Task:
    """The layer as the kernel that records are of."""
    (made,) = tasks_of(pipeline.fused(torch_export.from_torch(sparse_layer(), X), Compilation(one_core())))
    return made


def make_whole(folder: Path) -> None:
    """Writes a whole file of each kind into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _make_records(folder)
    _make_compiled(folder)
    _make_images(folder)
    _make_run(folder)
    _make_states(folder)
    _make_settings(folder)
    onnx.save(_onnx_model(), folder / "net.onnx")


def _make_records(folder: Path) -> None:
    records = Records(folder, one_core(), create=True)
    for schedule, seconds in zip(Space(task().func, one_core()).schedules, (3e-3, 1e-3), strict=False):
        records.add(task().func, schedule, [seconds])
    write_best(folder, folder)
    FormTimes(folder, one_core(), writes=True).add("a layer", {"direct": 1e-3, "winograd": 2e-3})


def _make_compiled(folder: Path) -> None:
    tvm_sched.compile(sparse_layer(), X, threads=1).save(folder / "net.so")
    np.save(folder / "x.npy", X.numpy())
    np.savez(folder / "x.npz", **{tvm_sched.load(folder / "net.so").signature.inputs[0].name: X.numpy()})
    contents, _ = bundle.contents(folder / "net.so")
    with tarfile.open(fileobj=io.BytesIO(bundle.archive(contents, "net"))) as archive:
        archive.extractall(folder / "bundle", filter="data")


def _pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (count, 3, PIXELS, PIXELS)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte(), torch.arange(count) % CLASSES


def _make_run(folder: Path) -> None:
    data = loaders.datasets(folder / "images.zip", size=PIXELS)
    config = Config(model=NETWORK, epochs=1, batch_size=6, n=4)
    trainer.train(data, config, output=folder / "run")
    for name in (trainer.CHECKPOINT, trainer.MODEL):
        os.replace(folder / "run" / name, folder / name)


def _make_states(folder: Path) -> None:
    model = models.create(NETWORK, CLASSES, 3).eval()
    torch.save(model.state_dict(), folder / "state.pth")
    save_file(model.state_dict(), folder / "state.safetensors")
    torch.export.save(torch.export.export(sparse_layer(), (X,)), folder / "net.pt2")


def _make_images(folder: Path) -> None:
    pixels, labels = _pictures(6)
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            kind = ("png", "jpeg", "bmp", "gif", "tiff", "webp")[number]
            image.save(folder / f"image.{kind}")
            for part in ("train", "val"):
                archive.write(folder / f"image.{kind}", f"{part}/{'abc'[label]}/{number}.{kind}")
    shape = struct.pack(">4B3I", 0, 0, 8, 3, 6, PIXELS, PIXELS)
    idx = {
        "images-idx3": shape + pixels[:, 0].numpy().tobytes(),
        "labels-idx1": struct.pack(">4BI", 0, 0, 8, 1, 6) + labels.byte().numpy().tobytes(),
    }
    for part in ("train", "t10k"):
        for kind, content in idx.items():
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))


def _make_settings(folder: Path) -> None:
    target = {
        "base": "x86-avx2",
        "cores": 2,
        "l2_bytes": 524288,
        "features": ["+avx2"],
        "costs": {"far_bytes_per_cycle": 4.5},
    }
    cells = {
        "about": "two",
        "defaults": {
            "data": "digits",
            "size": 32,
            "train_images": 100,
            "epochs": 2,
            "n": [4, 16],
            "batch_size": 10,
            "lr": 0.1,
        },
    }
    cells["cells"] = [
        {"network": NETWORK, "method": "subp", "sparsity": [0.5, 0.75], "seed": 0, "options": {"tau": 1.0}}
    ]
    layers = [{"name": "a", "in": 16, "out": 32, "size": 8, "kernel": 3, "stride": 2, "sparsity": [0.5]}]
    shipped = json.loads((suite.SHIPPED / f"{suite.names()[0]}.json").read_text())
    row = {
        "network": "a",
        "engine": "subp",
        "n": 16,
        "sparsity": 0.75,
        "precision": "float32",
        "batch": 1,
        "threads": 1,
    }
    row |= {"median_ms": 1.0, "p90_ms": 1.2, "min_ms": 0.9, "target": "host", "time_over_d": 1.1}
    for name, content in {
        "target.json": target,
        "suite.json": shipped,
        "layers.json": {"about": "one", "layers": layers, "sparsity": [0.5], "batch": [1, 8]},
        "bench.json": {"measurements": [row, row | {"engine": "torch"}], "machine": {"cpu": "a", "cores": 2}},
        "tracker.json": [
            0,
            {
                "server_info": [{"key": "server:rpi5", "addr": ["10.0.0.1", 9090]}],
                "queue_info": {"rpi5": {"free": 1, "pending": 0}},
            },
        ],
    }.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "grid.yaml").write_text(yaml.safe_dump(cells))
    rows = "network,method,n,sparsity,accuracy,seed\nresnet20,subp,16,0.75,0.9,0\nresnet20,dense,16,0,0.95,0\n"
    (folder / "results.csv").write_text(rows)


def _onnx_model() -> onnx.ModelProto:
    """A convolution, a ReLU, a sum with itself, a mean and a dense layer."""
    draws = np.random.default_rng(0)
    weights = {"w": draws.normal(size=(16, 16, 1, 1)), "b": draws.normal(size=16), "d": draws.normal(size=(16, 4))}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "c"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "d"], ["y"], alpha=1.0, transB=0),
    ]
    shapes = {"x": [1, 16, 4, 4], "y": [1, 4]}
    takes, gives = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    held = [numpy_helper.from_array(value.astype("float32"), name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [takes], [gives], held), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.metadata_props.add(key="subp.json", value=json.dumps({"classes": list("abcd")}))
    return model


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
        known.forms("a layer")

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
