"""A compiled network with all that it takes to run it on a board without Python, as one archive.

    NAME/run.sh                 ./run.sh --check, --bench, or INPUT.npy -o OUTPUT.npy
    NAME/net.so                 the compiled network
    NAME/network.txt            of its manifest, what the runner must know
    NAME/check/{input,output}.npy   the manifest's check input, and PyTorch's output for it (its first numbers)
    NAME/bin/runner             built from tvm_sched/deploy/board/runner.cc
    NAME/lib/*.so               TVM's runtime for the target's architecture

The same file and versions give the same archive, byte for byte.
"""

import gzip
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from subp_contract.errors import UserError
from tvm_sched.deploy import huge_pages, toolchain, wheels
from tvm_sched.deploy.manifest import error_limit, read_manifest
from tvm_sched.signature import Signature, check_inputs

FORMAT = 1  # of network.txt
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
    with tempfile.TemporaryDirectory() as folder:
        runner = Path(folder, "runner")
        build_runner(runner, compiler, shared)
        needs = toolchain.runs_with(library, runner, *shared)
        files = {name: path.read_bytes() for name, path in {"net.so": library, "bin/runner": runner, **runtime}.items()}
    check = manifest["check"]
    files |= {
        "network.txt": description(manifest, arch).encode(),
        "check/input.npy": npy(check_inputs(Signature.from_json(manifest).inputs, check["seed"])[0]),
        "check/output.npy": npy(np.array(check["outputs"][0], "float32")),
        "run.sh": (SOURCES / "run.sh").read_bytes(),
    }
    return files, needs


def require_runnable(manifest: dict, library: Path) -> None:
    """Raises UserError for a network that the runner cannot run, or that another version of TVM compiled."""
    import tvm

    if [each["dtype"] for each in manifest["inputs"]] != ["float32"]:
        raise UserError(
            f"{library} takes other inputs than one tensor of float32, which is all a bundle's runner feeds"
        )
    if manifest["versions"]["tvm"] != tvm.__version__:
        raise UserError(
            f"{library} was compiled with TVM {manifest['versions']['tvm']}, and this is {tvm.__version__}: compile "
            "the network again"
        )


def description(manifest: dict, arch: str) -> str:
    """The text that the runner reads: a key and its words a line."""
    entries = {
        "format": FORMAT,
        "arch": arch,
        "target": manifest["target"],
        "cpu_flags": " ".join(manifest["cpu_flags"]),
        "threads": manifest["threads"],
        "input": " ".join(map(str, manifest["inputs"][0]["shape"])),
        "parts": manifest["parts"],
        "prepare": manifest["prepare"] or "",
        "huge_pages": int(sum(manifest["memory"].values()) >= huge_pages.WORTH),
        "tolerance": error_limit(np.array(manifest["check"]["outputs"][0], "float32")),
    }
    return "".join(f"{key} {words}".rstrip() + "\n" for key, words in entries.items())


def build_runner(output: Path, compiler: list[str], libraries: list[Path]) -> None:
    """Compiles the program that runs a network. Raises UserError with the compiler's first words if it fails."""
    from tvm_ffi import libinfo

    includes = [f"-I{path}" for path in (libinfo.find_include_path(), libinfo.find_dlpack_include_path())]
    options = ["-std=c++17", "-O2", "-s", "-Wl,-rpath,$ORIGIN/../lib", "-Wl,--no-as-needed"]
    command = [*compiler, *options, *includes, str(SOURCES / "runner.cc"), "-o", str(output), *map(str, libraries)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise UserError(
            f"{compiler[0]} cannot build the runner: {said[0] if said else f'exit code {result.returncode}'}"
        )


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def archive(files: dict[str, bytes], name: str) -> bytes:
    """A .tar.gz of the files in a folder `name`, without times, users, or the order of `files` in it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(files[path]), 0o755 if path in PROGRAMS else 0o644
            tar.addfile(entry, io.BytesIO(files[path]))
    return gzip.compress(raw.getvalue(), compresslevel=6, mtime=0)
