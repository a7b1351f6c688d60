"""`subp run`: the inputs of a file through an artifact."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.types import INPUT_FILE, OutputFile, not_an_input
from subp_contract.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from tvm_sched.signature import TensorSpec

ARRAYS = (".npy", ".npz")  # files that hold the inputs as they are


@click.command("run")
@click.argument("artifact", metavar="NET.SO", type=INPUT_FILE)
@click.argument("inputs", metavar="INPUT...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="How many of the likeliest classes to tell."
)
@click.option(
    "-o",
    "--output",
    type=OutputFile(".npy", ".npz", ".csv", ".json"),
    help="File to write, in place of printing: of images the likeliest classes as .csv or .json, or all numbers as "
    ".npy; of arrays the output as .npy, or all by name as .npz.",
)
def command(artifact: Path, inputs: tuple[Path, ...], top: int, output: Path | None) -> None:
    """Run NET.SO on each INPUT: an image, a folder of them, or one .npy file, or one .npz file with an array for each
    input by its name, as `subp inspect NET.SO` lists them.

    An image is prepared as in training where NET.SO knows how; other files hold the network's inputs as they are.
    Prints the likeliest classes of each image, or a line for each output of another kind.
    """
    from tvm_sched import runtime_library

    with runtime_library.without_pytorch():
        runtime_library.ffi()
    import tvm_sched
    from subp.cli.options.terminal import say
    from subp.deployment import prediction

    not_an_input(output, artifact, *inputs)
    files = prediction.files_of(inputs)
    network = tvm_sched.load(artifact)
    signature = network.signature
    if are_logits(signature.outputs) and len(signature.inputs[0].shape) == 4 and files[0].suffix not in ARRAYS:
        return classify(artifact, files, top, output)
    if len(files) > 1:
        raise UserError("several files are for images and a network that classifies them: give one file of arrays")
    if output is not None and output.suffix not in ARRAYS:
        raise UserError(f"{output} is for classes of images: give -o a .npy or .npz file")
    if output is not None and output.suffix != ".npz" and len(signature.outputs) != 1:
        raise UserError(f"the network has the outputs {names(signature.outputs)}: give -o a .npz file")
    outputs = network.run_flat(read(files[0], signature.inputs, network.manifest))
    if output is not None:
        from subp_contract.files import write_atomically

        named = {spec.name: value for spec, value in zip(signature.outputs, outputs, strict=True)}
        write_atomically(output, numpy_file(named, output.suffix == ".npz"))
    elif are_logits(signature.outputs):
        for logits in outputs[0]:
            shares = prediction.likeliest(logits, network.manifest.get("classes"), top)
            say(str(prediction.Prediction(files[0], logits, shares)))
    else:
        for spec, value in zip(signature.outputs, outputs, strict=True):
            say(f"{spec}{summary(value)}")


def classify(artifact: Path, files: list[Path], top: int, output: Path | None) -> None:
    """Prints or writes what each image is."""
    from subp.cli.options.terminal import say, tracked
    from subp.deployment import classifier, prediction
    from subp_contract.files import write_atomically

    of_images = classifier.of_artifact(artifact, {}, None)
    made = prediction.predictions(of_images, files, top)
    if output is None:
        for each in made:
            say(f"{each.file}: {each}" if len(files) > 1 else str(each))
        return
    write_atomically(output, prediction.WRITERS[output.suffix](list(tracked("classifying")(made, len(files)))))


def read(path: Path, inputs: "Sequence[TensorSpec]", manifest: dict) -> list["np.ndarray"]:
    """The inputs in a file, in the network's order."""
    if path.suffix not in ARRAYS:
        return [read_image(path, manifest)]
    from subp.deployment.arrays import read_arrays

    given = read_arrays(path)
    if path.suffix == ".npy":
        if len(inputs) != 1:
            raise UserError(f"the network has the inputs {names(inputs)}: give them by these names in a .npz file")
        given = {inputs[0].name: given[""]}
    for name in given:
        if name not in {spec.name for spec in inputs}:
            raise UserError(f"{path} holds '{name}', which is no input of the network; it takes {names(inputs)}")
    if missing := [spec.name for spec in inputs if spec.name not in given]:
        raise UserError(f"{path} lacks the input '{missing[0]}'; the network takes {names(inputs)}")
    return [typed(given[spec.name], spec) for spec in inputs]


def typed(array: "np.ndarray", spec: "TensorSpec") -> "np.ndarray":
    """The array, of bfloat16 where the network wants that: NumPy's files do not know it."""
    from tvm_sched.signature import numpy_dtype

    return array.view(numpy_dtype(spec.dtype)) if spec.dtype == "bfloat16" and array.dtype.str == "|V2" else array


def numpy_file(arrays: Mapping[str, "np.ndarray"], several: bool) -> bytes:
    """The bytes of a .npz file, or of a .npy file of the only array."""
    import numpy as np

    file = io.BytesIO()
    if several:
        np.savez(file, **arrays)
    else:
        np.save(file, *arrays.values())
    return file.getvalue()


def names(specs: "Sequence[TensorSpec]") -> str:
    """The tensors' names in a line."""
    return ", ".join(spec.name for spec in specs)


def are_logits(outputs: "Sequence[TensorSpec]") -> bool:
    """Whether the output is one of numbers by image and class."""
    return len(outputs) == 1 and outputs[0].is_floating and len(outputs[0].shape) == 2


def summary(value: "np.ndarray") -> str:
    """Least, mean and largest of an output, if it holds anything."""
    if not value.size:
        return ", empty"
    wide = value.astype("float64")
    return f", min {wide.min():.6g}, mean {wide.mean():.6g}, max {wide.max():.6g}"


def read_image(path: Path, manifest: dict) -> "np.ndarray":
    """An image as the network's only input [1, C, H, W], prepared as the manifest says, else the standard way."""
    from subp.data.decoding import open_image
    from subp.data.preprocessing import Preprocessing

    if len(manifest["inputs"]) != 1:
        raise UserError(f"the network takes {len(manifest['inputs'])} inputs, not an image: give a .npz file")
    shape = manifest["inputs"][0]["shape"]
    if len(shape) != 4:
        raise UserError(f"the network takes {list(shape)}, no image: give a .npy file")
    try:
        image = open_image(path)
    except UserError as error:
        raise UserError(f"neither a .npy file nor an image that can be read: {error}") from error
    _, channels, height, width = shape
    about = manifest.get("preprocessing")
    preprocessing = Preprocessing(**about) if about else Preprocessing.standard(height, channels)
    x = preprocessing(image)[None]
    if x.shape[1:] != tuple(shape[1:]):
        prepared, taken = list(x.shape[1:]), [channels, height, width]
        raise UserError(f"images are prepared as {prepared}, the network takes {taken}: give a .npy file")
    return x
