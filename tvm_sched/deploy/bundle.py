"""A compiled network with all that it takes to run it on a board without Python, as one archive.

    NAME/run.sh                 ./run.sh --check, --bench, or INPUT -o OUTPUT (.npy, or .npz of several)
    NAME/net.so                 the compiled network
    NAME/network.txt            of its manifest, what the runner must know
    NAME/check/{inputs,outputs}.npz   the manifest's check inputs, and PyTorch's outputs for them (their first numbers)
    NAME/bin/runner             built from tvm_sched/deploy/board/runner.cc
    NAME/lib/*.so               TVM's runtime for the target's architecture

The same file and versions give the same archive, byte for byte.
"""

import gzip
import io
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder
from tvm_sched.deploy import huge_pages, toolchain, wheels
from tvm_sched.deploy.manifest import expected_outputs, limits, read_manifest
from tvm_sched.signature import Signature, TensorSpec, check_inputs, numpy_dtype

FORMAT = 3  # of network.txt
SOURCES = Path(__file__).parent / "board"
PROGRAMS = ("run.sh", "bin/runner")


def contents(library: Path, cc: str | None = None) -> tuple[dict[str, bytes], str]:
    """(the bundle's files by name, the system that they need in words) of a compiled network.

    cc: the command of a C++ compiler for the runner, else one is found. Raises UserError for a network that cannot be
    bundled, where there is no compiler, or where TVM's runtime cannot be fetched.
    """
    manifest, arch = read_manifest(library)
    toolchain.require_whole(library)
    require_runnable(manifest, library)
    compiler = toolchain.program_compiler(arch, cc)
    runtime = wheels.runtime_files(arch)
    shared = [path for path in runtime.values() if path.suffix == ".so"]
    with scratch_folder() as folder:
        runner = folder / "runner"
        build_runner(runner, compiler, shared)
        needs = toolchain.runs_with(library, runner, *shared)
        files = {name: path.read_bytes() for name, path in {"net.so": library, "bin/runner": runner, **runtime}.items()}
    signature = Signature.from_json(manifest)
    given = check_inputs(signature.inputs, manifest["check"]["seed"])
    files |= {
        "network.txt": description(manifest, arch, files["net.so"]).encode(),
        "check/inputs.npz": npz(dict(zip((spec.name for spec in signature.inputs), given, strict=True))),
        "check/outputs.npz": npz({spec.name: numbers for spec, numbers in expected_outputs(manifest)}),
        "run.sh": (SOURCES / "run.sh").read_bytes(),
    }
    return files, needs


def require_runnable(manifest: dict, library: Path) -> None:
    """Raises UserError for a network that the runner cannot run, or that another version of TVM compiled."""
    import tvm

    if manifest["shapes"]:
        count = len(manifest["shapes"]) + 1
        raise UserError(f"{library} is compiled for {count} shapes, and a bundle runs one: compile it for that")
    if manifest["versions"]["tvm"] != tvm.__version__:
        raise UserError(
            f"{library} was compiled with TVM {manifest['versions']['tvm']}, and this is {tvm.__version__}: compile "
            "the network again"
        )


def description(manifest: dict, arch: str, library: bytes) -> str:
    """The text that the runner reads: a key and its words a line. With the CRC-32 of the library's bytes and, at its
    end, its own, so that the runner loads nothing that was damaged.
    """
    entries = {
        "format": FORMAT,
        "arch": arch,
        "library": zlib.crc32(library),
        "target": manifest["target"],
        "cpu_flags": " ".join(manifest["cpu_flags"]),
        "threads": manifest["threads"],
        "parts": manifest["parts"],
        "prepare": manifest["prepare"] or "",
        "huge_pages": int(sum(manifest["memory"].values()) >= huge_pages.WORTH),
    }
    lines = [f"{key} {words}".rstrip() for key, words in entries.items()]
    for spec in Signature.from_json(manifest).inputs:
        lines.append(tensor_line("input", spec, spec.range[0] if spec.range else 0))
    outputs = Signature.from_json(manifest).outputs
    lines += [tensor_line("output", spec, limit) for spec, limit in zip(outputs, limits(manifest), strict=True)]
    return summed("".join(line + "\n" for line in lines))


def summed(text: str) -> str:
    """The text with its checksum as the last line."""
    return f"{text}checksum {zlib.crc32(text.encode())}\n"


def tensor_line(key: str, spec: TensorSpec, number: float) -> str:
    """An input with the least value of its example, or an output with the largest error."""
    return " ".join(map(str, (key, spec.name, numpy_dtype(spec.dtype).str, number, *spec.shape)))


def build_runner(output: Path, compiler: list[str], libraries: list[Path]) -> None:
    """Compiles the program that runs a network. Raises UserError with the compiler's first words if it fails."""
    from tvm_ffi import libinfo

    includes = [f"-I{path}" for path in (libinfo.find_include_path(), libinfo.find_dlpack_include_path())]
    # -Os: it computes nothing itself, and takes a third less to build; zig's C++ library, too.
    options = ["-std=c++17", "-Os", "-s", "-Wl,-rpath,$ORIGIN/../lib", "-Wl,--no-as-needed"]
    command = [*compiler, *options, *includes, str(SOURCES / "runner.cc"), "-o", str(output), *map(str, libraries)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise UserError(
            f"{compiler[0]} cannot build the runner: {said[0] if said else f'exit code {result.returncode}'}"
        )


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a .npz file, the same at any time."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, array in arrays.items():
            file = io.BytesIO()
            np.save(file, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), file.getvalue())
    return raw.getvalue()


def archive(files: dict[str, bytes], name: str) -> bytes:
    """A .tar.gz of the files in a folder `name`, without times, users, or the order of `files` in it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(files[path]), 0o755 if path in PROGRAMS else 0o644
            tar.addfile(entry, io.BytesIO(files[path]))
    return gzip.compress(raw.getvalue(), compresslevel=6, mtime=0)
