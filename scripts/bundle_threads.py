#!/usr/bin/env python
"""Makes a folder that measures networks on 1, 2, 4, ... threads of a machine that has nothing installed.

    python scripts/bundle_threads.py FOLDER [--network NAME ...] [--target NAME ...] [--threads 1,2,4,8,16]
    FOLDER/run.sh [--rounds 4] [--seconds 0.3]      there: a line of JSON a network, target and number of threads

Each number of threads has code of its own, compiled for it. The runner is a bundle's (docs/boards.md); beside TVM's
runtime the folder holds the C++ library that it was built with, for where there is none or an older one. As many cores
are used as threads, of different physical ones as far as there are, and networks are run in turn, round by round. All
weights of a layer are equal, but for a random uniform 1x16 mask, so that the folder packs well; times do not depend on
them.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import click
import torch
from torch import nn

from subp.cli.options.types import Numbers
from subp.deployment.random_networks import random_network
from subp_contract.errors import UserError
from subp_contract.files import write_atomically

SHARED = ("bin/", "lib/", "LICENSE", "NOTICE")  # of a bundle, what all networks need
RUN = r"""#!/bin/sh
# Measures the networks beside this file, in turn: ./run.sh [--rounds 4] [--seconds 0.3]
rounds=4 seconds=0.3
while [ $# -gt 1 ]; do
    case $1 in --rounds) rounds=$2 ;; --seconds) seconds=$2 ;; *) echo "run.sh: no option $1" >&2; exit 2 ;; esac
    shift 2
done
here=$(cd "$(dirname "$0")" && pwd) || exit 2
if [ ! -d "$here/networks" ]; then tar xzf "$here/networks.tar.gz" -C "$here" || exit 2; fi

# The system's C++ library where it is as new as needed, else the one that came along.
"$here/bin/runner" 2>&1 | grep -q usage || export LD_LIBRARY_PATH="$here/lib/c++"

# The CPUs that may be used, those of different physical cores first.
allowed=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status | tr ',' ' ')
first= later= seen=' '
for range in $allowed; do
    cpu=${range%-*}
    while [ "$cpu" -le "${range#*-}" ]; do
        topology=/sys/devices/system/cpu/cpu$cpu/topology
        core=$(cat $topology/physical_package_id 2>/dev/null):$(cat $topology/core_id 2>/dev/null || echo $cpu)
        case $seen in *" $core "*) later="$later $cpu" ;; *) first="$first $cpu" seen="$seen$core " ;; esac
        cpu=$((cpu + 1))
    done
done
cpus="$first $later"
count=$(echo $cpus | wc -w)
echo "{\"machine\": \"$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)\", \"cpus\": $count," \
    "\"physical_cores\": $(echo $first | wc -w), \"order\": \"$(echo $cpus)\"}"

round=0
while [ $round -lt "$rounds" ]; do
    for network in "$here"/networks/*; do
        threads=${network##*@}
        [ "$threads" -le "$count" ] || continue
        "$here/bin/runner" "$network" --bench --json --threads "$threads" --seconds "$seconds" \
            --cores "$(echo $cpus | cut -d ' ' -f "1-$threads" | tr ' ' ',')" || echo "{\"failed\": \"${network##*/}\"}"
    done
    round=$((round + 1))
done
"""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--network", "networks", multiple=True, default=("resnet50", "mobilenet_v1"), show_default=True)
@click.option("--target", "targets", multiple=True, default=("x86-avx512", "x86-avx2"), show_default=True)
@click.option("--threads", type=Numbers(), default="1,2,4,8,16", show_default=True)
@click.option("--sparsity", type=click.FloatRange(0, 1, max_open=True), default=0.75, show_default=True)
def command(folder: Path, networks: tuple[str, ...], targets: tuple[str, ...], threads: list[int], sparsity: float):
    """Write FOLDER, which must not exist."""
    if folder.exists():
        raise click.ClickException(f"{folder} exists")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for network in networks:
            add(partial, network, targets, threads, sparsity)
        finish(partial)
    except UserError as error:
        raise click.ClickException(str(error)) from None
    os.replace(partial, folder)


def add(folder: Path, name: str, targets: tuple[str, ...], threads: list[int], sparsity: float) -> None:
    """One network's bundles, of which FOLDER/bin and FOLDER/lib are shared."""
    import tvm_sched
    from tvm_sched.deploy import bundle

    network = random_network(name, n=16, sparsity=sparsity, seed=0, size=224, batch=1)
    make_plain(network.module)
    for target in targets:
        for count in threads:
            built = tvm_sched.compile(
                network.module, network.example_input, target=target, threads=count, dense=sparsity == 0, check=False
            )
            with tempfile.TemporaryDirectory() as temporary:
                library = Path(temporary) / "net.so"
                built.save(library)
                files, needs = bundle.contents(library)
            for path, content in files.items():
                own = "" if path.startswith(SHARED) else f"networks/{name}-{sparsity:.0%}@{target}@{count}/"
                write(folder / own / path, content)
            click.echo(f"{name} {target} {count} threads: {needs}")


def make_plain(module: nn.Module) -> None:
    """Makes the weights of a layer equal where they are not zero, others in each layer, their sums being about 1;
    normalisations leave what they get.
    """
    with torch.no_grad():
        for number, layer in enumerate(module.modules()):
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.fill_(1), layer.bias.zero_(), layer.running_mean.zero_(), layer.running_var.fill_(1)
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                kept = layer.weight != 0
                layer.weight.copy_(kept * ((1 + number / 1024) / kept.flatten(1).sum(1).max()))
                if layer.bias is not None:
                    layer.bias.zero_()


def write(path: Path, content: bytes) -> None:
    """A file in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def finish(folder: Path) -> None:
    """The C++ library, the script, and the networks as one archive."""
    listed = subprocess.run(["ldd", str(folder / "bin/runner")], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name, _, where = line.strip().partition(" => ")
        if name.startswith(("libstdc++", "libgcc_s")):
            write(folder / "lib/c++" / name, Path(where.split()[0]).read_bytes())
    with tarfile.open(folder / "networks.tar.gz", "w:gz") as archive:
        archive.add(folder / "networks", "networks")
    shutil.rmtree(folder / "networks")
    write(folder / "run.sh", RUN.encode())
    for program in ("run.sh", "bin/runner"):
        (folder / program).chmod(0o755)


if __name__ == "__main__":
    command()
