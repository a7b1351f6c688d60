"""What a compiled network takes of the process's memory, by Linux's account."""

import ctypes
import gc
import re
from pathlib import Path

from tvm_sched.deploy.artifact import Artifact, load
from tvm_sched.deploy.manifest import read_manifest
from tvm_sched.signature import Signature, check_inputs


def load_measured(path: str | Path, threads: int) -> tuple[Artifact, int | None]:
    """(the artifact in `path`, the bytes that the process grew by at most while it was loaded and called once).

    None where the system does not tell.
    """
    inputs = check_inputs(Signature.from_json(read_manifest(path)[0]).inputs, seed=0)
    give_back_free_pages()
    before = start_peak()
    artifact = load(path, threads)
    artifact.run_flat(inputs)
    after = status("VmHWM")
    return artifact, None if before is None or after is None else max(0, after - before)


def give_back_free_pages() -> None:
    """What the process has freed but holds would be used again, and not be counted as growth. Without effect where the
    C library cannot.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)


def start_peak(process: Path = Path("/proc/self")) -> int | None:
    """Resident bytes now, from which the peak (VmHWM) counts from now on; None where it cannot be set back."""
    try:
        (process / "clear_refs").write_text("5")
    except OSError:
        return None
    return status("VmRSS", process)


def status(key: str, process: Path = Path("/proc/self")) -> int | None:
    """An entry of the process's status in bytes, None if there is none."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
