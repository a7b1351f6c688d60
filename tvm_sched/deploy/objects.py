"""Object files on their way to a library, in memory where the system has files there.

LLVM writes them, and ends the process, without a word of it, where the disk has no room left.
"""

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a compiler, which who only runs networks has no need of
    from tvm.relax import VMExecutable

NAMES = ("lib0.o", "devc.o")  # of the functions and of what stands for the rest of the module, by TVM


def export(executable: "VMExecutable", library: Path, link: Callable[..., None]) -> None:
    """Writes the executable to a library, in whose folder, a temporary one, object files lie meanwhile. `link`: what
    makes the library of them, see `toolchain.link`.
    """
    with ExitStack() as held:
        for name in NAMES:
            held.enter_context(_in_memory(library.parent / name))
        executable.export_library(str(library), fcompile=link, workspace_dir=str(library.parent))


@contextmanager
def _in_memory(path: Path) -> Iterator[None]:
    """What is written to this path meanwhile takes no room on its disk."""
    try:
        file = os.memfd_create(path.name)
    except (AttributeError, OSError):  # no such files here, or none left
        yield
        return
    try:
        if (place := Path(f"/proc/{os.getpid()}/fd/{file}")).exists():  # not without /proc, or with another's
            path.symlink_to(place)
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
        os.close(file)


def archive(output: str, files: list[str], **_: object) -> None:
    """What TVM calls for an archive of object files that are not linked."""
    with tarfile.open(output, "w", dereference=True) as tar:
        for file in files:
            tar.add(file, Path(file).name)


archive.object_format = "o"  # type: ignore[attr-defined]  # TVM asks for it
