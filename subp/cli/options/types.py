"""Options and argument types that several commands share."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from subp.training.config import Config
from subp_contract.errors import UserError


class OutputFile(click.ParamType):
    """A file that can be written, with one of these endings if any are given: told before the work, not after it."""

    name = "file"

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if path.is_dir():
            self.fail(f"{path} is a folder", param, ctx)
        if self.endings and not path.name.endswith(self.endings):
            *others, last = self.endings
            self.fail(f"{path} must end in {', '.join(others)}{' or ' * bool(others)}{last}", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}", param, ctx)
        if not os.access(path.parent, os.W_OK):
            self.fail(f"the folder {path.parent} is not writable", param, ctx)
        return path


def not_an_input(output: Path | None, *inputs: str | Path) -> None:
    """Raises UserError where the file to write is one of those to read, which it would replace."""
    for file in map(Path, inputs):
        if output is not None and output.exists() and file.exists() and output.samefile(file):
            raise UserError(f"{output} is an input of this command: write to another file")


class Finite(click.FloatRange):
    """A number in a range; NaN, which is in none, and infinities are refused too."""

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Names(click.ParamType):
    """Some of `known`, comma-separated."""

    name = "names"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known

    def convert(self, value: str | list[str], param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = value if isinstance(value, list) else value.split(",")
        for name in names:
            if name not in self.known:
                self.fail(f"{name!r} is not one of {', '.join(self.known)}", param, ctx)
        return list(dict.fromkeys(names))


class Numbers(click.ParamType):
    """Positive whole numbers, comma-separated: 1,2,4."""

    name = "numbers"

    def convert(self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        parts = value.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of positive whole numbers, such as 1,2", param, ctx)
        return [int(part) for part in parts]


class Fractions(click.ParamType):
    """Sparsities from 0 to below 1, comma-separated: 0.5,0.75."""

    name = "fractions"

    def convert(
        self, value: str | list[float], param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of fractions, such as 0.5,0.75", param, ctx)
        for number in numbers:
            if not 0 <= number < 1:
                hint = f"; write {number / 100:g} for {number:g} %" if 1 <= number < 100 else ""
                self.fail(f"{number:g} is no fraction from 0 to below 1{hint}", param, ctx)
        return numbers


class Shapes(click.ParamType):
    """An input's shape, 1x3x224x224; those of several inputs comma-separated."""

    name = "shape"

    def convert(
        self, value: str | tuple, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, ...], ...]:
        if isinstance(value, tuple):
            return value
        shapes = [part.strip().split("x") for part in value.split(",")]
        if not all(extent.isdecimal() and int(extent) > 0 for shape in shapes for extent in shape):
            self.fail(f"{value!r} is no shape, such as 1x3x224x224, or several such as 1x3x224x224,1x16", param, ctx)
        return tuple(tuple(map(int, shape)) for shape in shapes)

    def text(self, value: tuple[tuple[int, ...], ...]) -> str:
        """What `convert` makes such a value of."""
        return ",".join("x".join(map(str, shape)) for shape in value)


def setting(name: str, help: str, **kind) -> Callable:
    """The option of that name for `Config`'s field, with its default; a flag where that is False. kind: as of
    click.option
    """
    default = getattr(Config, name.removeprefix("--").replace("-", "_"))
    shown = default is not None and default is not False
    return click.option(name, default=default, is_flag=default is False, show_default=shown, help=help, **kind)


INPUT_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SEED = click.IntRange(0, 2**63 - 1)  # what PyTorch's generators take
PIXELS = click.IntRange(1, 2**14)  # of an image's height and width
BATCH = click.IntRange(1, 2**16)
THREADS = click.IntRange(1, 1024)  # beyond which OpenMP ends the process
WEIGHTS = ["float32", "float16", "bfloat16"]
FOLDER = click.Path(file_okay=False, path_type=Path)

cc_option = click.option(
    "--cc",
    metavar="COMMAND",
    help="Compiler for the target, such as 'aarch64-linux-gnu-g++'.  [default: one that is found]",
)

precision_option = click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="Numbers to compute with: float32; float16 on an ARM CPU with fp16; bfloat16 on an x86 CPU with AVX512-BF16; "
    "int8, with --calibrate; auto, the fastest by estimate but for bfloat16, layer by layer (docs/precision.md).",
)

calibrate_option = click.option(
    "--calibrate",
    metavar="DATA",
    help="Images to calibrate --precision int8 or auto on, as `subp quantize` takes them; 512 are drawn.  "
    "[default: random images for a named network, whose weights are random too]",
)

weights_option = click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="float32",
    show_default=True,
    help="Numbers to store weights in: 16 bits are half the bytes, taken in layers where that is not slower; "
    "sums stay float32.",
)

target_option = click.option(
    "--target",
    default="host",
    show_default=True,
    help="CPU to generate code for: a name that `subp doctor` lists, or a file NAME.json.",
)
