"""Runs networks for an ARM CPU as on a board: the bundle's runner, under QEMU, with Debian's libraries.

What is needed is fetched as for the tests (tests/end_to_end/arm64_root.py): QEMU, Debian's arm64 libraries, TVM's.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subp_contract.errors import UserError
from tvm_sched.deploy import bundle, toolchain, wheels
from tvm_sched.deploy.artifact import Artifact

sys.path.append(str(Path(__file__).parents[1] / "tests" / "end_to_end"))
import arm64_root


class Board:
    """A CPU that is emulated, in a folder of its own."""

    def __init__(self, cpu: str, folder: Path):
        """Raises UserError where it cannot be emulated here."""
        try:
            self.under = shlex.join(arm64_root.emulated(arm64_root.root(), cpu))
        except arm64_root.Unavailable as reason:
            raise UserError(str(reason)) from None
        self.folder = folder
        for name, path in wheels.runtime_files("aarch64").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
        (folder / "bin").mkdir(exist_ok=True)
        libraries = sorted((folder / "lib").glob("*.so"))
        bundle.build_runner(folder / "bin" / "runner", toolchain.program_compiler("aarch64"), libraries)
        shutil.copy(bundle.SOURCES / "run.sh", folder)

    def run_flat(self, artifact: Artifact, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the network gives there. Raises CalledProcessError where it does not run."""
        library, signature = self.folder / "net.so", artifact.signature
        artifact.save(library)
        told = bundle.description(artifact.manifest, "aarch64", library.read_bytes())
        (self.folder / "network.txt").write_text(told)
        given = {spec.name: np.asarray(x) for spec, x in zip(signature.inputs, inputs, strict=True)}
        ends = [self.folder / f"{end}.{'npz' if many else 'npy'}" for end, many in self._ends(signature)]
        if len(given) > 1:
            ends[0].write_bytes(bundle.npz(given))
        else:
            np.save(ends[0], *given.values())
        words = ["sh", str(self.folder / "run.sh"), str(ends[0]), "-o", str(ends[1])]
        subprocess.run(words, env=os.environ | {"RUN_UNDER": self.under}, check=True, capture_output=True)
        if len(signature.outputs) == 1:
            return [np.load(ends[1])]
        with np.load(ends[1]) as made:
            return [made[spec.name] for spec in signature.outputs]

    @staticmethod
    def _ends(signature) -> list[tuple[str, bool]]:
        """(name, whether there are several) of inputs and of outputs."""
        return [("inputs", len(signature.inputs) > 1), ("outputs", len(signature.outputs) > 1)]
