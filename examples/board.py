"""A network for a board: compiled, packed with a runner that needs no Python, unpacked and checked.

    python examples/board.py                          # this machine stands in for the board
    python examples/board.py --target cortex-a76      # for a Raspberry Pi 5; needs the extra 'cross' for its compiler

What the last two steps do is done on the board in earnest: copy the archive there, `tar xzf`, `./board/run.sh --check`.
"""

import argparse
import subprocess
import tarfile
from pathlib import Path

import torch
from own_loop import small_network

import tvm_sched
from subp import Sparsifier
from tvm_sched.deploy import bundle


def main() -> None:
    """Writes board.so and board.tar.gz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="host", help="a target that docs/targets.md lists")
    options = parser.parse_args()
    torch.manual_seed(0)
    sparsifier = Sparsifier(small_network(), n=16, sparsity=0.75, method="one-by-n-uniform", epochs=1)
    sparsifier.step(0)
    artifact = tvm_sched.compile(sparsifier.fold(), torch.rand(1, 1, 8, 8), target=options.target, threads=1)
    artifact.save("board.so")
    files, needs = bundle.contents(Path("board.so"))
    Path("board.tar.gz").write_bytes(bundle.archive(files, "board"))
    print(f"board.tar.gz {needs}")
    if options.target == "host":
        with tarfile.open("board.tar.gz") as archive:
            archive.extractall(filter="data")
        subprocess.run(["board/run.sh", "--check"], check=True)


if __name__ == "__main__":
    main()
