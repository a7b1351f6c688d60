"""The stages that a network goes through after training, each checked against PyTorch on the same images."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import tvm_sched
from subp import models
from subp.data.loaders import Data, Loading, batches, val_batches
from subp.deployment.checks import check
from subp.training import checkpoint, trainer
from subp.training.config import Config
from subp.training.progress import Progress
from subp_contract.files import write_atomically
from subp_contract.scratch import scratch_folder
from tvm_sched.bench import engines
from tvm_sched.bench.engines import Engine, Network

THREADS = 1  # that networks are compiled for and measured with

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
        trainer.make_sparsifier(as_trained, config)
        as_trained.load_state_dict(checkpoint.load(run / trainer.CHECKPOINT).model)
    example = torch.from_numpy(images.inputs[:1])
    network = Network.of(config.model, checkpoint.load_model(path)[0], example)
    expected = Network.of(config.model, as_trained.eval(), example).reference(images.inputs)
    return network, {"folded": check(f"{path.stem}, folded", network.reference(images.inputs), expected)}


def deploy(
    network: Network, inputs: np.ndarray, path: Path, *, dense: bool, records: Path | None = None
) -> tuple[Engine, Errors]:
    """Exports and compiles the network for one image at a time, saves it at `path` and loads it again.

    inputs: images [B, C, H, W], which every stage must map to what PyTorch maps them to
    dense:  compile as if there were no zeros
    """
    expected = network.reference(inputs)
    errors = {}

    def checked(stage: str, call: Callable[[np.ndarray], np.ndarray]) -> None:
        errors[stage] = check(f"{path.stem}, {stage}", one_by_one(call, inputs), expected)

    with torch.no_grad():
        program = torch.export.export(network.module, (network.example_input,))
    checked("exported", engines.pytorch(replace(network, module=program), THREADS).call)
    artifact = tvm_sched.compile(program, network.example_input, records=records, threads=THREADS, dense=dense)
    errors["compiled"] = artifact.manifest["check"]["error"]
    artifact.save(path)
    loaded = tvm_sched.load(path, threads=THREADS)
    checked("loaded", loaded)
    return engines.ours(loaded, network, path), errors


def references(network: Network, inputs: np.ndarray) -> tuple[list[Engine], Errors]:
    """PyTorch and ONNX Runtime on the network, and the error of the latter."""
    pytorch, onnxruntime = engines.pytorch(network, THREADS), engines.peer("onnxruntime", network, THREADS)
    outputs = one_by_one(onnxruntime.call, inputs)
    return [pytorch, onnxruntime], {"onnxruntime": check("ONNX Runtime", outputs, network.reference(inputs))}


def one_by_one(call: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """The outputs for inputs [B, ...], given to `call` in batches of one."""
    return np.concatenate([call(inputs[i : i + 1]) for i in range(len(inputs))])
