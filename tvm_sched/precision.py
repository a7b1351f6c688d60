"""What each word of `precision=` does to a network: the one place where a precision plugs in.

    float32    the network's own numbers, as they are
    float16    activations and weights of half precision inside, float32 at the edges; ARMv8.2 with `fp16`
    bfloat16   convolutions multiply numbers of bfloat16 and add up in float32; x86 with AVX512-BF16
    int8       quantised to 8 bits before it is imported, in the ranges of calibration data; any CPU
    auto       one of these, or 8 bits in some layers and float32 in the others, by the kernels' estimates
               (`mixed_precision`); given with the network, so not by `of`

`of` answers for a word what is done before the network is imported, and what within the pipeline. A program that is
quantised already is an int8 network whatever the word.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tvm import IRModule

from subp_contract.errors import UserError
from tvm_sched.kernels.integer.dots import BFLOAT, has, weight_bits
from tvm_sched.passes.precision.bfloat16 import bfloat16
from tvm_sched.passes.precision.half_precision import half_precision
from tvm_sched.targets import Target

AUTO = "auto"
WORDS = ("float32", "float16", "bfloat16", "int8", AUTO)
# (the user's network, calibration data, its example inputs and keyword arguments) -> the network that is imported
Before = Callable[[Any, Iterable[Any] | None, Any, Mapping[str, Any] | None], Any]
Within = Callable[[IRModule, Collection[str]], IRModule]  # (batch norms folded, layers to keep in float32) -> narrowed


@dataclass(frozen=True)
class Precision:
    """What a word does; None where it does nothing there."""

    word: str
    before: Before | None = None
    within: Within | None = None
    weights: str | None = None  # dtype in which layers that stay in float32 may store theirs
    note: str = ""  # what there is to say of a network that `before` has quantised
    cpu_flags: tuple[str, ...] = ()  # that its code needs beside the target's, in Linux's words


SEVEN = "weights of 7 bits, which this target multiplies up to twice as fast; quantise before compiling for 8"
FLOAT32 = Precision("float32")
FLOAT16 = Precision("float16", within=half_precision, cpu_flags=("fphp", "asimdhp"))
BFLOAT16 = Precision("bfloat16", within=bfloat16, weights="bfloat16", cpu_flags=("avx512_bf16",))


def int8(weight_bits: int = 8, wide: Collection[str] = ()) -> Precision:
    """Integers, but for the sites that are `wide`; a network that is not quantised yet gets weights of so many bits."""

    def before(network: Any, calibration: Iterable[Any] | None, inputs: Any, kwargs: Mapping[str, Any] | None) -> Any:
        from tvm_sched.frontend.calibration import in_8_bits  # at once it would import PyTorch's export

        return in_8_bits(network, calibration, inputs, kwargs, wide, weight_bits)

    return Precision("int8", before, note=SEVEN if weight_bits == 7 else "")


INT8 = int8()


def with_flags(target: Target, precision: Precision) -> Target:
    """The target, which needs what the precision's code does."""
    return replace(target, cpu_flags=tuple(dict.fromkeys((*target.cpu_flags, *precision.cpu_flags))))


def of(word: str, target: Target) -> Precision:
    """What the word does on a target; 'auto' is float32 until the network is known. Raises UserError for an unknown
    word, or one that the target or this version cannot serve.
    """
    if word not in WORDS:
        raise UserError(f"unknown precision '{word}': choose one of {', '.join(WORDS)}")
    if word in ("float32", AUTO):
        return FLOAT32
    if word == "float16":
        if not target.half:
            raise UserError(
                f"target '{target.name}' does not compute in float16: that takes an ARMv8.2 CPU with fp16, such as "
                "cortex-a76; choose precision float32"
            )
        return FLOAT16
    if word == "bfloat16":
        if not has(BFLOAT, target.tvm()):
            raise UserError(
                f"target '{target.name}' has no dot products of bfloat16: that takes an x86 CPU with AVX512-BF16, such "
                "as x86-avx512-bf16; choose precision float32, or weights='bfloat16' to store weights so"
            )
        return BFLOAT16
    return int8(weight_bits(target))
