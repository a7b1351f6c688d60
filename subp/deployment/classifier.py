"""Whatever classifies images, as one callable: a compiled network (.so), or any MODEL with weights of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subp.data.preprocessing import Preprocessing
from subp.deployment import networks
from subp_contract.errors import UserError, require


@dataclass(frozen=True)
class Classifier:
    """`run` maps images [batch, C, H, W] to logits [batch, classes]; `classes` where their names are known."""

    name: str
    shape: tuple[int, ...]  # [batch, C, H, W], of which `run` takes no other
    run: Callable[[np.ndarray], np.ndarray]
    classes: list[str] | None
    preprocessing: Preprocessing

    @property
    def batch(self) -> int:
        """Images at a time."""
        return self.shape[0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """[N, classes] of images [N, C, H, W], N up to the batch: zeros fill it up."""
        if len(images) == self.batch:
            return self.run(images)
        filled = np.zeros(self.shape, images.dtype)
        filled[: len(images)] = images
        return self.run(filled)[: len(images)]


def opened(model: str, settings: dict, threads: int | None = None) -> Classifier:
    """The classifier in a file NET.SO, or that a MODEL is; settings as of `networks.load_network`, whose batch is 32
    where it may be any. threads: of a compiled network; PyTorch's are global to the process.

    Raises UserError for a network of random weights, and for one that does not map images to logits.
    """
    return of_artifact(Path(model), settings, threads) if model.endswith(".so") else of_model(model, settings)


def of_artifact(path: Path, settings: dict, threads: int | None) -> Classifier:
    """A compiled network. Raises UserError for one that takes other things than images, or gives several outputs."""
    import tvm_sched

    networks.refuse(settings, settings, f"{path} is compiled for one shape")
    network = tvm_sched.load(path, threads)
    inputs, outputs = network.signature.inputs, network.signature.outputs
    require(
        len(inputs) == len(outputs) == 1, f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: no classifier"
    )
    return _classifier(path.stem, inputs[0].shape, lambda x: network.run_flat([x])[0], network.manifest)


def of_model(model: str, settings: dict) -> Classifier:
    """A checkpoint, a state dict, an exported program or an ONNX file. Raises UserError for a network's mere name."""
    kind, _ = networks.kind_of(model)
    require(kind != "name", f"{model} is a network's name, whose weights are random: give trained ones")
    if kind in ("checkpoint", "state") and settings.get("batch") is None:
        settings = settings | {"batch": 32}
    network, metadata = networks.load_network(model, settings)
    return _classifier(network.name, tuple(network.only_input().shape), network.reference, metadata)


def _classifier(name: str, shape: Sequence[int], run: Callable, about: dict) -> Classifier:
    if len(shape) != 4:
        raise UserError(f"{name} takes {list(shape)}, no images")
    given = about.get("preprocessing")
    preprocessing = Preprocessing(**given) if given else Preprocessing.standard(shape[-1], shape[1])
    require(
        preprocessing.shape == tuple(shape[1:]),
        f"images are prepared as {list(preprocessing.shape)}, {name} takes {list(shape[1:])}",
    )
    return Classifier(name, tuple(shape), run, about.get("classes"), preprocessing)
