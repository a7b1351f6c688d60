"""Finds a compiler for a target, and links object files into a shared library with a manifest inside.

The manifest is a section of its own in the ELF file, so that it can be read without running the library, on any
machine. Another section holds the CRC-32 of all other bytes of the file, so that damage is told before it is run.

What a file needs of the system's C and C++ libraries is read from the file itself: it has to run on Debian 11 and what
is newer.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from importlib.util import find_spec
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from subp_contract.documents import shown
from subp_contract.errors import UserError, first_line
from subp_contract.files import require_file
from subp_contract.scratch import scratch_folder
from tvm_sched.targets import Target

SECTION, CHECKSUM = ".subp_manifest", ".subp_checksum"
CHECKSUM_BYTES = 4
ZIG_GLIBC = "2.28"
OLDEST = {"GLIBC": (2, 31), "GLIBCXX": (3, 4, 28), "CXXABI": (1, 3, 12)}  # what Debian 11 has, and Ubuntu 20.04
MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}  # ELF's names -> ours


def linker(target: Target, cc: str | None = None) -> list[str]:
    """The command that links for `target`: `cc`, or the first of `compilers`. Raises UserError without one, and for a
    target that object files alone are made for.
    """
    if not target.links:
        raise UserError(
            f"for target '{target.name}' there are object files only, nothing here links for macOS: save to a name "
            "ending in .tar"
        )
    return (
        named(cc)
        if cc
        else first(target.arch, compilers(target.arch), "; or save to a name ending in .tar, which holds object files")
    )


def program_compiler(arch: str, cc: str | None = None) -> list[str]:
    """The C++ compiler for a program that also starts on older systems than this one: `cc`, or zig, or another. Raises
    UserError without one.

    A program, unlike a library of plain functions, needs at least the glibc (from 2.34 on) that a distribution's own
    compiler links with.
    """
    zigs = [zig(arch, "c++")] if find_spec("ziglang") else []
    return named(cc) if cc else first(arch, [*zigs, *(each for each in compilers(arch) if each[0].endswith("++"))])


def compilers(arch: str) -> list[list[str]]:
    """The commands here that link for an architecture, in the order of choice: the machine's own or a cross compiler,
    then zig.
    """
    native = arch == platform.machine()
    prefix = "" if native else f"{arch}-linux-gnu-"
    names = ("g++", "gcc", *(("c++", "cc", "clang") if native else ()))
    found = [[path] for path in map(shutil.which, (prefix + name for name in names)) if path]
    return [*found, *([zig(arch, "cc")] if find_spec("ziglang") else [])]


def zig(arch: str, driver: str) -> list[str]:
    """zig's C or C++ compiler (`driver`: cc, c++), linking for ZIG_GLIBC."""
    return [sys.executable, "-m", "ziglang", driver, "-target", f"{arch}-linux-gnu.{ZIG_GLIBC}"]


def named(cc: str) -> list[str]:
    """The words of a command that the user gives. Raises UserError if there is no such program."""
    words = shlex.split(cc)
    if not words or not shutil.which(words[0]):
        raise UserError(f"there is no compiler '{cc}' here")
    return words


def first(arch: str, commands: list[list[str]], way_round: str = "") -> list[str]:
    """The first command. Without any raises UserError, saying what to install, and the way round it."""
    if commands:
        return commands[0]
    remedy = (
        "install g++"
        if arch == platform.machine()
        else f"'pip install ziglang', or install g++-{arch.replace('_', '-')}-linux-gnu"
    )
    raise UserError(f"no compiler here links for {arch}: {remedy}{way_round}")


def try_out(compiler: list[str]) -> None:
    """Raises UserError where the command does not link a library of nothing: told before a network is compiled."""
    with scratch_folder() as folder:
        link(str(folder / "nothing.so"), [], compiler, b"{}")


def link(output: str, files: list[str], compiler: list[str], manifest: bytes) -> None:
    """Links object files and the manifest into the shared library `output`. Raises UserError with the linker's first
    words if it fails.
    """
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as folder:  # which is a temporary one
        text, source = Path(folder, "manifest.json"), Path(folder, "manifest.s")
        text.write_bytes(manifest)
        source.write_text(
            f'.section {SECTION},"a",%progbits\n.incbin "{text}"\n'
            f'.section {CHECKSUM},"a",%progbits\n.zero {CHECKSUM_BYTES}\n'
            '.section .note.GNU-stack,"",%progbits\n'
        )
        # TVM's debug information, of no use without its sources, is a tenth to a fifth of a small network's file.
        # zig would also build its checks of undefined behaviour, and link them.
        plain = ["-shared", "-fPIC", "-fno-sanitize=undefined"]
        command = [*compiler, *plain, "-Wl,--strip-debug", "-o", output, *files, str(source)]
        result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": folder})
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise UserError(f"{compiler[0]} cannot link {output}: {said[0] if said else f'exit code {result.returncode}'}")
    if not Path(output).is_file():
        raise UserError(f"{compiler[0]} wrote no {output}: is it a compiler? Name another by --cc, or none")
    with open(output, "r+b") as file:
        at = ELFFile(file).get_section_by_name(CHECKSUM)["sh_offset"]
        found = checksum(file, at)
        file.seek(at)
        file.write(found)


def checksum(file, at: int) -> bytes:
    """CRC-32 of a file without the checksum that it holds `at` an offset."""
    file.seek(0)
    content = memoryview(file.read())
    return zlib.crc32(content[at + CHECKSUM_BYTES :], zlib.crc32(content[:at])).to_bytes(CHECKSUM_BYTES, "little")


def read_manifest(path: Path) -> tuple[bytes, str]:
    """(manifest, architecture) of a library that `link` made. Raises UserError if the file is missing, damaged, or none
    of ours.
    """
    require_file(path)
    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            section = elf.get_section_by_name(SECTION)
            machine = elf["e_machine"]
            if section and (section.compressed or section["sh_size"] > os.fstat(file.fileno()).st_size):
                raise ELFError("its manifest is larger than the file")
            manifest = section.data() if section else None
    except Exception as error:  # of any kind: its reader believes what the file says
        raise UserError(f"{path} is truncated or not a shared library ({shown(first_line(error))})") from None
    if manifest is None:
        raise UserError(f"{path} is a shared library, but not one that 'subp compile' made: it has no manifest")
    return manifest, MACHINES.get(machine, str(machine))


def needed_versions(path: Path) -> dict[str, tuple[int, ...]]:
    """The highest version of each of OLDEST's symbol sets that a library or program needs: {"GLIBC": (2, 17)}."""
    found = {}
    with open(path, "rb") as file:
        section = ELFFile(file).get_section_by_name(".gnu.version_r")
        names = [each.name for _, versions in section.iter_versions() for each in versions] if section else []
    for name in names:
        if (match := re.fullmatch(r"([A-Z]+)_([\d.]+)", name)) and match[1] in OLDEST:
            found[match[1]] = max(found.get(match[1], ()), tuple(map(int, match[2].split("."))))
    return found


def runs_with(*paths: Path) -> str:
    """The system that these files need, in words; with a warning where Debian 11 is not enough."""
    newest = {}
    for versions in map(needed_versions, paths):
        newest |= {name: max(newest.get(name, ()), version) for name, version in versions.items()}
    words = f"runs with glibc {dotted(newest['GLIBC'])} and later" if "GLIBC" in newest else "needs no glibc"
    beyond = [f"{name} {dotted(version)}" for name, version in newest.items() if version > OLDEST[name]]
    if beyond:
        words += (
            f" (WARNING: not on Debian 11, which lacks {', '.join(beyond)}: 'pip install ziglang' links for older "
            "systems)"
        )
    return words


def dotted(version: tuple[int, ...]) -> str:
    """'2.31'"""
    return ".".join(map(str, version))


def require_whole(path: Path) -> None:
    """Raises UserError if a library that `link` made has other bytes now."""
    try:
        with open(path, "rb") as file:
            section = ELFFile(file).get_section_by_name(CHECKSUM)
            whole = section is not None and section["sh_size"] == CHECKSUM_BYTES and not section.compressed
            whole = whole and section.data() == checksum(file, section["sh_offset"])
    except Exception:  # as above
        whole = False
    if not whole:
        raise UserError(
            f"{path} is damaged, or made by another version: its checksum is wrong; copy it again, or compile the "
            "network again"
        )
