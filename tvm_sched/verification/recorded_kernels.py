"""Holds a kernel that a record schedules against the same kernel by its default schedule: on random arguments, once.

A record comes from a file. Its trace may have no instruction that is not ours (`records/traces.py`), but that does not
make its numbers right, and nobody looks at them where a network is compiled without its check. What has been found
right is kept in the user's cache, a line a kernel and record, so that it costs once: two builds and two calls of the
kernel, some 0.3 s. The records that the package brings are as good as its code, and are not looked at again.
"""

import faulthandler
import hashlib
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from subp_contract.distribution import VERSION
from subp_contract.errors import first_line
from subp_contract.files import user_cache
from tvm_sched import codegen, runtime
from tvm_sched.deploy.entry import ALIGNMENT, as_tvm
from tvm_sched.kernels import kernel_of
from tvm_sched.kernels.base import normal
from tvm_sched.passes.tir.schedule_functions import schedule_one
from tvm_sched.records.database import known_as, workload
from tvm_sched.records.recorded import Recorded
from tvm_sched.targets import Target
from tvm_sched.verification.comparison import compare
from tvm_sched.verification.host import stand_in, unable

ROUNDING = {"float16": 2e-2, "bfloat16": 2e-2}  # of the largest number; float32's is `error_limit`'s
MARGIN, MARK = 2**16, 0xA5  # bytes beside each array, which must stay
LONGEST_S = 30
OVER = "looked: "  # begins what a process tells that has come to its end
STEP = 1  # of whole numbers, where a sum lies halfway between two


class RecordedKernels:
    """What is known of the kernels of one target."""

    def __init__(self, target: Target):
        self.target = target
        self.found: dict[str, str] = {}  # key -> its fault: a kernel that never ends is waited for once

    @cached_property
    def here(self) -> Target | None:
        """The target that stands for it on this machine; None where none can."""
        return None if unable(self.target) else stand_in(self.target)

    def fault(self, func: PrimFunc, recorded: Recorded) -> str:
        """Why the record's schedule of `func` is not to be used, in words; '' where its numbers are right, or where
        this machine cannot run it.
        """
        if self.here is None:
            return ""
        key = self.key(func, recorded)
        if key not in self.found:
            was_right = key in known()
            self.found[key] = "" if was_right else self.difference(func, recorded)
            if not (was_right or self.found[key]):
                keep(key)
        return self.found[key]

    def key(self, func: PrimFunc, recorded: Recorded) -> str:
        """What tells the kernel, the schedule, and what makes code of them, from all others."""
        made = recorded.schedule.mod["main"] if recorded.trace is None else recorded.trace
        schedule = json.dumps(made) if isinstance(made, list) else str(structural_hash(made))
        parts = (VERSION, tvm.__version__, str(self.here), str(structural_hash(known_as(func))), schedule)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def difference(self, func: PrimFunc, recorded: Recorded) -> str:
        """How its numbers differ from those of the default schedule, in words."""
        assert self.here is not None
        try:
            given = arguments(func)
            expected = after_call(built(schedule_one(func, self.here, None)[0], self.here), given)[0]
            changed = [not same(some, other) for some, other in zip(given, expected, strict=True)]
            spoilt = [np.ones_like(each) if of_output else each for each, of_output in zip(given, changed, strict=True)]
            run = built(recorded.schedule, self.here)  # machine code: a forked process may not compile
        except Exception as error:  # of any kind: TVM's lowering has many
            return f"its kernel cannot be checked: {first_line(error)[:200]}"
        return in_child(lambda: fault_of(*after_call(run, spoilt), expected, changed))


def fault_of(found: list[np.ndarray], spilt: bool, expected: list[np.ndarray], changed: list[bool]) -> str:
    """What is wrong with the arrays that a kernel left, which writes those that are `changed`, in words."""
    if spilt:
        return "its kernel writes beyond its output"
    for output, right, of_output in zip(found, expected, changed, strict=True):
        whole = STEP if np.issubdtype(output.dtype, np.integer) and of_output else 0
        relative = ROUNDING.get(str(output.dtype), 0.0)
        agreement = compare(output, right, "the default schedule", allowed=whole, relative=relative)
        if not agreement.holds:
            return f"its kernel's output {agreement.words}"
    return ""


def in_child(look: Callable[[], str]) -> str:
    """What it gives, in words, in a forked process: code that writes where it should not, or never ends, harms none."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()  # the parent tells what is wrong
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler in Python would wait for the kernel's end
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
            signal.alarm(LONGEST_S)
            os.close(read)
            os.write(write, f"{OVER}{look()}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        words = told.read().decode()
    with suppress(ChildProcessError):  # where SIGCHLD is ignored nothing is left to wait for
        os.waitpid(child, 0)
    return words.removeprefix(OVER) if words.startswith(OVER) else "its kernel crashes, or does not end"


def arguments(func: PrimFunc) -> list[np.ndarray]:
    """What a fused function is run on, its output's array included; the same each time."""
    kernel, mod = kernel_of(func), workload(func)
    infos = [each.as_json() for each in ArgInfo.from_entry_func(mod, remove_preproc=True)]
    typed = [(str(dtype), tuple(int(extent) for extent in shape)) for _, dtype, shape in infos]
    rng = np.random.default_rng(0)
    if kernel is None:
        return [normal(rng, dtype, shape) for dtype, shape in typed]
    return kernel.arguments(kernel.problem(Schedule(mod)), typed, rng)


def built(schedule: Schedule, target: Target) -> Callable[..., None]:
    """A scheduled function as machine code, to call."""
    return codegen.build_alone(workload(schedule.mod["main"]), target).jit()["main"]


def after_call(run: Callable[..., None], given: list[np.ndarray]) -> tuple[list[np.ndarray], bool]:
    """(all of the function's arrays after a call, whether anything beside them was written)."""
    padded = [np.full(2 * MARGIN + each.nbytes, MARK, np.uint8) for each in map(np.ascontiguousarray, given)]
    starts = [MARGIN + -(each.ctypes.data + MARGIN) % ALIGNMENT for each in padded]
    arrays = []
    for memory, start, each in zip(padded, starts, given, strict=True):
        arrays.append(memory[start : start + each.nbytes].view(each.dtype).reshape(each.shape))
        arrays[-1][...] = each
    runtime.set_threads(1)
    run(*map(as_tvm, arrays))
    beside = [
        np.concatenate([memory[:start], memory[start + each.nbytes :]])
        for memory, start, each in zip(padded, starts, given, strict=True)
    ]
    return arrays, any((each != MARK).any() for each in beside)


def same(some: np.ndarray, other: np.ndarray) -> bool:
    """Bit by bit."""
    return some.tobytes() == other.tobytes()


def file() -> Path:
    """Where what was found right is kept."""
    return user_cache() / "checked_records.txt"


def known() -> frozenset[str]:
    """The keys that are kept."""
    try:
        return frozenset(file().read_text("ascii", "replace").split())
    except OSError:
        return frozenset()


def keep(key: str) -> None:
    """Adds a key; where it cannot be written the kernel is looked at again next time."""
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        with open(file(), "a") as lines:
            lines.write(f"\n{key}\n")  # of its own, whatever a full disk has left of another
    except OSError:
        return
