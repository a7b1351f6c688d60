"""A whole file of each kind that a command reads, of a network of one small layer and a run of one epoch.

    make_whole(folder)

`scripts/read_formats.py` says how each is damaged and opened.
"""

import gzip
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import tvm_sched
from subp import models
from subp.data import loaders
from subp.training import trainer
from subp.training.config import Config
from tvm_sched import pipeline, targets
from tvm_sched.bench import suite
from tvm_sched.deploy import bundle
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.records.database import Records
from tvm_sched.records.fastest import write_best
from tvm_sched.records.form_times import FormTimes
from tvm_sched.tuning.tiles import Space, Task, tasks_of

NETWORK, CLASSES, PIXELS = "resnet20", 3, 8


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
    make_records(folder)
    _make_compiled(folder)
    make_images(folder)
    _make_run(folder)
    _make_states(folder)
    make_settings(folder)
    onnx.save(_onnx_model(), folder / "net.onnx")


def make_records(folder: Path) -> None:
    """A tuning log of the layer, its fastest record and a layer's forms."""
    records = Records(folder, one_core(), create=True)
    space = Space(task().func, one_core())
    for tile, seconds in zip(space.tiles, (3e-3, 1e-3), strict=False):
        records.add(task().func, space.schedule(tile), [seconds])
    write_best(folder, folder)
    FormTimes(folder, one_core(), writes=True).add("a layer", {"direct": 1e-3, "winograd": 2e-3})


def _make_compiled(folder: Path) -> None:
    tvm_sched.compile(sparse_layer(), X, threads=1).save(folder / "net.so")
    np.save(folder / "x.npy", X.numpy())
    np.savez(folder / "x.npz", **{tvm_sched.load(folder / "net.so").signature.inputs[0].name: X.numpy()})
    contents, _ = bundle.contents(folder / "net.so", shutil.which("g++"))  # zig would build its C++ library first
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


def make_images(folder: Path) -> None:
    """Six images of three classes: as files, as a zip of both parts, and as MNIST's files."""
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


def make_settings(folder: Path) -> None:
    """Files that a user writes, or that commands write as text."""
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
