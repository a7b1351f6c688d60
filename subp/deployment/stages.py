"""The stages that a network goes through after training, each checked against PyTorch on the same images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

import tvm_sched
from subp import models
from subp.data.loaders import Data, Loading, batches, val_batches
from subp.deployment import quantised
from subp.deployment.checks import check, check_written, engine_check
from subp.training import checkpoint, trainer
from subp.training.config import Config
from subp.training.progress import Progress
from subp.training.run import make_sparsifier
from subp_contract.errors import UserError
from subp_contract.files import write_atomically
from subp_contract.scratch import scratch_folder
from tvm_sched.bench import engines
from tvm_sched.bench.engines import Engine, Network

THREADS = 1  # that networks are compiled for and measured with
PEERS = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")  # beside PyTorch

Errors = dict[str, float]  # stage -> maximum absolute error to PyTorch


@dataclass(frozen=True)
class Images:
    """Test images as the networks take them, [B, C, H, W], and their labels [B]."""

    inputs: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, data: Data) -> "Images":
        """All validation images."""
        inputs, labels = zip(*batches(val_batches(data, Loading(64))), strict=True)
        return cls(torch.cat(inputs).numpy(), torch.cat(labels).numpy())

    def accuracy(self, outputs: np.ndarray) -> float:
        """Of the outputs [B, classes], 0 to 1."""
        return float((outputs.argmax(1) == self.labels).mean())


def train(data: Data, config: Config, images: Images, path: Path, progress: Progress) -> tuple[Network, Errors]:
    """Trains a network and leaves it folded at `path`; returns what was read back from there.

    Its outputs must be those of the network as it was trained, masks still on.
    """
    with scratch_folder(path) as run:
        trainer.train(data, config, output=run, progress=progress)
        write_atomically(path, (run / trainer.MODEL).read_bytes())
        as_trained = models.create(config.model, len(data.classes), data.preprocessing.channels)
        make_sparsifier(as_trained, config)
        as_trained.load_state_dict(checkpoint.load(run / trainer.CHECKPOINT).model)
    example = torch.from_numpy(images.inputs[:1])
    network = Network.of(config.model, checkpoint.load_model(path)[0], example)
    expected = Network.of(config.model, as_trained.eval(), example).reference(images.inputs)
    return network, {"folded": check(f"{path.stem}, folded", network.reference(images.inputs), expected)}


def program(network: Network, calibration: list[torch.Tensor] | None = None) -> ExportedProgram:
    """The network as a program of torch.export; in 8 bits where there are batches [B, C, H, W] to calibrate on."""
    if calibration is not None:
        return quantised.quantize(network, calibration)
    with torch.no_grad():
        return torch.export.export(network.module, (network.example_input,))


def deploy(
    network: Network,
    exported: ExportedProgram,
    inputs: np.ndarray,
    path: Path,
    *,
    dense: bool,
    records: Path | None = None,
    precision: str = "float32",
) -> tuple[Engine, Errors]:
    """Compiles the network's program for one image at a time, saves it at `path` and loads it again.

    inputs: images [B, C, H, W], which every stage must map to what PyTorch maps them to; in int8 about that
    dense:  compile as if there were no zeros
    """
    expected = network.reference(inputs)
    errors = {}

    def checked(stage: str, call: Callable[[np.ndarray], np.ndarray]) -> None:
        errors[stage] = check(f"{path.stem}, {stage}", one_by_one(call, inputs), expected)

    is_plain = precision == "float32"
    if is_plain:
        checked("exported", engines.pytorch(replace(network, module=exported), THREADS).call)
    artifact = tvm_sched.compile(exported, network.example_input, records=records, threads=THREADS, dense=dense)
    errors["compiled"] = artifact.manifest["check"]["error"]
    artifact.save(path)
    loaded = tvm_sched.load(path, threads=THREADS)
    engine = engines.ours(loaded, network, path)
    if is_plain:
        checked("loaded", loaded)
    else:
        check_written(path, artifact)
        engine_check(engine, path.stem, one_by_one(loaded, inputs), expected)
    return engine, errors


@dataclass(frozen=True)
class References:
    """Other engines on a network, ready; their errors to PyTorch; why some are missing."""

    engines: list[Engine]
    errors: Errors
    missing: list[str]


def references(network: Network, inputs: np.ndarray) -> References:
    """PyTorch, ONNX Runtime and, where it is installed, OpenVINO on the network, the latter two also in int8."""
    expected = network.reference(inputs)
    made, errors, missing = [engines.pytorch(network, THREADS)], {}, []
    for name in PEERS:
        try:
            engine = engines.peer(name, network, THREADS)
        except UserError as why:
            missing.append(str(why))
            continue
        outputs = one_by_one(engine.call, inputs)
        if engine.precision == "float32":
            errors[name] = check(name, outputs, expected)
        else:
            engine_check(engine, name, outputs, expected)
        made.append(engine)
    return References(made, errors, list(dict.fromkeys(missing)))


def one_by_one(call: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """The outputs for inputs [B, ...], given to `call` in batches of one."""
    return np.concatenate([call(inputs[i : i + 1]) for i in range(len(inputs))])
