"""Debian for arm64 in a folder, and an emulator that runs its programs: what stands in for a board in tests.

apt-get fetches packages with all they depend on, in a configuration of its own: no rights are needed, and the system's
packages stay as they are. Unpacked folders are kept in the user's cache. Programs run under QEMU's user mode
(`qemu-aarch64 -L ROOT`): the right instructions and the release's own glibc, on the host's kernel. Times say nothing.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from subp_contract.files import user_cache
from tvm_sched.deploy.wheels import keep

CACHE = user_cache() / "debian"
# Old releases move from the one to the other.
MIRRORS = ("http://deb.debian.org/debian", "http://archive.debian.org/debian")
OLDEST = "bullseye"  # Debian 11, glibc 2.31: the oldest system that is promised to do
EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
CONFIG = """\
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Architecture "{architecture}";
APT::Architectures "{architecture}";
APT::Install-Recommends "false";
APT::Sandbox::User "";
"""


class Unavailable(Exception):
    """Why there is nothing to emulate with."""


def root(packages: tuple[str, ...] = ("libstdc++6",), release: str = OLDEST, architecture: str = "arm64") -> Path:
    """A folder with the release's packages and all that they depend on, unpacked but not configured. Raises Unavailable
    where apt cannot.
    """
    key = hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:8]
    folder = CACHE / f"{release}-{architecture}-{key}"
    if folder.is_dir():
        return folder
    for program in ("apt-get", "dpkg-deb"):
        if not shutil.which(program):
            raise Unavailable(f"no {program} here to fetch Debian's {', '.join(packages)} with")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        apt, unpacked = Path(made, "apt"), Path(made, "root")
        for each in (apt / "lists/partial", apt / "archives/partial", unpacked):
            each.mkdir(parents=True)
        (apt / "status").touch()
        (apt / "apt.conf").write_text(CONFIG.format(folder=apt, architecture=architecture))
        for mirror in MIRRORS:
            (apt / "sources.list").write_text(f"deb [check-valid-until=no] {mirror} {release} main\n")
            failure = apt_get(apt, "update", "--error-on=any") or apt_get(
                apt, "install", "--yes", "--download-only", *packages
            )
            if not failure:
                break
        else:
            raise Unavailable(f"{', '.join(packages)} of Debian's {release} for {architecture}: {failure}")
        for package in sorted((apt / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
        keep(unpacked, folder)
    return folder


def apt_get(apt: Path, *action: str) -> str:
    """Runs apt-get in the configuration of its own; why it failed, if it did."""
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    done = subprocess.run(["apt-get", "--quiet", *action], env=environment, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return (errors[0] if errors else f"apt-get's exit code is {done.returncode}") if done.returncode else ""


def emulator(cpu: str = "cortex-a76") -> list[str]:
    """QEMU's command for one CPU, but for the root and the program: the system's own, or Debian 12's in the cache.
    Raises Unavailable.
    """
    own = next(filter(None, map(shutil.which, EMULATORS)), None)
    return [*([own] if own else fetched_emulator()), "-cpu", cpu]


def fetched_emulator() -> list[str]:
    """Debian 12's emulator, run by the loader and with the libraries that came with it."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"none of {', '.join(EMULATORS)} is here, and none is fetched for {platform.machine()}")
    folder = root(("qemu-user",), "bookworm", "amd64")
    libraries = ":".join(str(folder / each / "x86_64-linux-gnu") for each in ("lib", "usr/lib"))
    return [
        str(folder / "lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        libraries,
        str(folder / "usr/bin" / EMULATORS[0]),
    ]


def emulated(folder: Path, cpu: str = "cortex-a76") -> list[str]:
    """The command to put before a program of the root in `folder`, or before one that runs with the root's libraries.
    What such a program starts itself is not emulated. Raises Unavailable.
    """
    return [*emulator(cpu), "-L", str(folder)]
