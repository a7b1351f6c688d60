#!/usr/bin/env python
"""Holds random layers, in random forms of every kernel, against PyTorch in float64.

    python scripts/check_kernels.py                                      1000 layers in each precision
    python scripts/check_kernels.py --layers 5000 --precision int8 --seed 1
    python scripts/check_kernels.py --target cortex-a76 --precision float16
    python scripts/check_kernels.py --target cortex-a76 --emulated --layers 20
    python scripts/check_kernels.py --bounds --layers 300

`scripts/random_layers.py` says what is drawn; `stored` is float32 with weights of 16 bits. For a target that this
machine does not run, the same scheduled functions are run in its own instructions; --emulated runs the target's, under
QEMU, on one thread (`scripts/emulated_layers.py`). With --bounds the code also tests that each access of memory is
inside its buffer (`scripts/memory_bounds.py`). Prints how many layers each kernel
computed. The first wrong one is made as small as it goes and printed; exit code 1. Needs the package's extra 'test'.
"""

import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import click
from emulated_layers import Board
from hypothesis import HealthCheck, given, seed, settings
from memory_bounds import bounds_checked
from random_layers import MOST, Problem, networks, require_right

PRECISIONS = ("float32", "stored", "int8", "float16")
COMPILED = PRECISIONS[:3]  # by default; float16 is for ARM CPUs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--layers", default=1000, show_default=True, type=click.IntRange(1), help="About so many in a precision.")
@click.option("--precision", "words", multiple=True, type=click.Choice(PRECISIONS), help="[float32, stored, int8]")
@click.option("--target", default="host", show_default=True, help="As of `subp compile`.")
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1), help="Each number up to this one is run."
)
@click.option("--emulated", is_flag=True, help="Run the target's own code under QEMU, of an ARM CPU.")
@click.option("--bounds", is_flag=True, help="Test that each access of memory is inside its buffer.")
@click.option("--seed", "number", default=0, show_default=True, help="Of what is drawn.")
def command(
    layers: int, words: tuple[str, ...], target: str, threads: int, emulated: bool, bounds: bool, number: int
) -> None:
    """Hold random layers, in random forms of every kernel, against PyTorch in float64."""
    with tempfile.TemporaryDirectory() as folder, bounds_checked() if bounds else nullcontext():
        board = Board(target, Path(folder)) if emulated else None
        for word in words or COMPILED:
            start = time.monotonic()
            try:
                kernels = checked(layers, word, target, threads, number, board)
            except (AssertionError, IndexError) as error:
                sys.exit(f"{word}: {error}")
            told = ", ".join(f"{name} {count}" for name, count in kernels.most_common())
            print(f"{word}: {kernels.total()} layers right in {time.monotonic() - start:.0f} s ({told})", flush=True)


def checked(layers: int, word: str, target: str, threads: int, number: int, board: Board | None = None) -> Counter:
    """How many layers each kernel computed. Raises AssertionError where one is wrong."""
    kernels: Counter = Counter()

    @seed(number)
    @settings(
        max_examples=-(-2 * layers // MOST),  # of half as many layers as there may be, in the mean
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(networks())
    def check(problems: list[Problem]) -> None:
        kernels.update(require_right(problems, word, target, threads, board))

    check()
    return kernels


if __name__ == "__main__":
    command()
