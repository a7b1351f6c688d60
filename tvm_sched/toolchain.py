"""Finds a linker for a target, and links object files into a shared library with a manifest inside.

The manifest is a section of its own in the ELF file, so that it can be read without running the library, on any machine. Another section holds
the CRC-32 of all other bytes of the file, so that damage is told before it is run.
"""

import shutil
import subprocess
import sys
import tempfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from tvm_sched.errors import UserError
from tvm_sched.targets import Target

SECTION, CHECKSUM = ".subp_manifest", ".subp_checksum"
CHECKSUM_BYTES = 4
MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}  # ELF's names -> ours


def linker(target: Target) -> list[str]:
    """The command of a C++ or C compiler that links for `target`: the machine's own, a cross compiler, or zig's. Raises UserError without one,
    and for a target that object files alone are made for.
    """
    import platform

    if not target.links:
        raise UserError(f"for target '{target.name}' there are object files only, nothing here links for macOS: save to a name ending in .tar")

    native = target.arch == platform.machine()
    prefix = "" if native else f"{target.arch}-linux-gnu-"
    for name in ("g++", "gcc", *(("c++", "cc", "clang") if native else ())):
        if path := shutil.which(prefix + name):
            return [path]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-target", f"{target.arch}-linux-gnu.2.28"]
    remedy = "install gcc" if native else f"install g++-{target.arch.replace('_', '-')}-linux-gnu, or 'pip install ziglang'"
    raise UserError(f"no compiler here links for {target.arch}: {remedy}; or save to a name ending in .tar, which holds object files")


def link(output: str, files: list[str], compiler: list[str], manifest: bytes) -> None:
    """Links object files and the manifest into the shared library `output`. Raises UserError with the linker's first words if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        text, source = Path(folder, "manifest.json"), Path(folder, "manifest.s")
        text.write_bytes(manifest)
        source.write_text(
            f'.section {SECTION},"a",%progbits\n.incbin "{text}"\n'
            f'.section {CHECKSUM},"a",%progbits\n.zero {CHECKSUM_BYTES}\n'
            '.section .note.GNU-stack,"",%progbits\n'
        )
        # TVM's debug information, of no use without its sources, is a tenth to a fifth of a small network's file.
        command = [*compiler, "-shared", "-fPIC", "-Wl,--strip-debug", "-o", output, *files, str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise UserError(f"{compiler[0]} cannot link {output}: {said[0] if said else f'exit code {result.returncode}'}")
    with open(output, "r+b") as file:
        at = ELFFile(file).get_section_by_name(CHECKSUM)["sh_offset"]
        found = checksum(file, at)
        file.seek(at)
        file.write(found)


def checksum(file, at: int) -> bytes:
    """CRC-32 of a file without the checksum that it holds `at` an offset."""
    file.seek(0)
    content = memoryview(file.read())
    return zlib.crc32(content[at + CHECKSUM_BYTES:], zlib.crc32(content[:at])).to_bytes(CHECKSUM_BYTES, "little")


def read_manifest(path: Path) -> tuple[bytes, str]:
    """(manifest, architecture) of a library that `link` made. Raises UserError if the file is missing, damaged, or none of ours."""
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(SECTION)
            machine = elf["e_machine"]
            manifest = section.data() if section else None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a compiled network") from None
    except (ELFError, ValueError, AttributeError, OSError) as error:
        raise UserError(f"{path} is truncated or not a shared library ({error})") from None
    if manifest is None:
        raise UserError(f"{path} is a shared library, but not one that 'subp compile' made: it has no manifest")
    return manifest, MACHINES.get(machine, str(machine))


def require_whole(path: Path) -> None:
    """Raises UserError if a library that `link` made has other bytes now."""
    with open(path, "rb") as file:
        section = ELFFile(file).get_section_by_name(CHECKSUM)
        whole = section is not None and section.data() == checksum(file, section["sh_offset"])
    if not whole:
        raise UserError(f"{path} is damaged, or made by another version: its checksum is wrong; copy it again, or compile the network again")
