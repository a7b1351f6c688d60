#!/usr/bin/env python
"""Other engines as they run on a CPU with AVX2 alone, measured on one that has more: copies of their packages that are
told of no AVX-512 and no VNNI.

    python scripts/hide_avx512.py onnxruntime openvino ncnn -o DIR
    env $(cat DIR/environment) subp bench --suite peers --target x86-avx2 ...

Engines choose their kernels by the CPUID instruction, which a process can neither trap nor mask here. In the copies
each CPUID (two bytes) is written over by UD2 (two bytes as well), and a library that is loaded before all others
catches the signal, runs CPUID in its place and clears the bits of AVX-512, AVX-VNNI, AMX and their kin. Needs objdump
and gcc; Linux on x86-64. The core stays what it is: its caches, ports and clock are not those of an older one, which
the rows must say.
"""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import click

CPUID, UD2 = b"\x0f\xa2", b"\x0f\x0b"
SITE = re.compile(r"^\s*([0-9a-f]+):\s+cpuid\s*$", re.MULTILINE)
SEGMENT = re.compile(
    r"^\s*LOAD off\s+0x([0-9a-f]+) vaddr 0x([0-9a-f]+).*?filesz 0x([0-9a-f]+)", re.MULTILINE | re.DOTALL
)

# Leaf 7, subleaf 0: AVX512F, DQ, IFMA, PF, ER, CD, BW, VL of EBX; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ of ECX;
# 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, FP16, AMX-TILE, AMX-INT8 of EDX. Subleaf 1: AVX-VNNI, AVX512-BF16, AMX-FP16,
# AVX-IFMA of EAX; AVX-VNNI-INT8, NE-CONVERT, AMX-COMPLEX, VNNI-INT16, AVX10 of EDX. (Intel, Software Developer's
# Manual, volume 2A, CPUID.)
LIBRARY = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

static void answer(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    if (memcmp((void *)registers[REG_RIP], "\x0f\x0b", 2)) {
        signal(signal_number, SIG_DFL);
        return;
    }
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7 && subleaf == 0) {
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    }
    if (leaf == 7 && subleaf == 1) {
        a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);
        d &= ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19);
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, 0);
}
"""


def sites(library: Path) -> list[int]:
    """Offsets in the file of its CPUID instructions."""
    listing = _output("objdump", "-d", "--no-show-raw-insn", library)
    segments = [[int(each, 16) for each in found] for found in SEGMENT.findall(_output("objdump", "-p", library))]
    found = []
    for address in (int(each, 16) for each in SITE.findall(listing)):
        found += [address - start + offset for offset, start, size in segments if start <= address < start + size]
    return found


def told_less(library: Path) -> int:
    """Writes the library anew, its CPUID instructions being UD2; how many."""
    content = bytearray(library.read_bytes())
    places = sites(library)
    for place in places:
        if content[place : place + 2] != CPUID:
            raise click.ClickException(f"{library}: no CPUID at byte {place}, where objdump tells of one")
        content[place : place + 2] = UD2
    library.write_bytes(content)
    return len(places)


def _output(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def source_of(name: str) -> Path:
    """The folder of an installed package."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException(f"no package {name} is installed")
    return Path(spec.submodule_search_locations[0])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("packages", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to make.")
def main(packages: tuple[str, ...], output: Path) -> None:
    """Copy installed PACKAGES to a folder and hide AVX-512 from the copies."""
    if output.exists():
        raise click.ClickException(f"{output} exists: name a folder to make")
    for tool in ("objdump", "gcc"):
        if not shutil.which(tool):
            raise click.ClickException(f"{tool} is needed and not installed (Debian: apt install gcc)")
    sources = {name: source_of(name) for name in packages}
    output.mkdir(parents=True)
    for name, source in sources.items():
        for each in (source, source.parent / f"{name}.libs"):
            if each.is_dir():
                shutil.copytree(each, output / each.name)
        libraries = [path for path in (output / name).rglob("*.so*") if not path.is_symlink()]
        count = sum(told_less(path) for path in libraries)
        some = "library" if len(libraries) == 1 else "libraries"
        print(f"{name}: {count} CPUID instruction{'s' * (count != 1)} in {len(libraries)} {some}")
    library = output / "hide_avx512.so"
    subprocess.run(
        ["gcc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)], input=LIBRARY, text=True, check=True
    )
    words = f"LD_PRELOAD={library.resolve()} PYTHONPATH={output.resolve()}"
    (output / "environment").write_text(words + "\n")
    print(f"env {words} subp bench ...")


if __name__ == "__main__":
    main()
