"""`subp doctor`: what this machine has and lacks for each job, and the command that mends it.

PyTorch and TVM are imported, as they tell what devices there are. Of other packages it is enough that they are
installed: to import them all takes twice as long as the rest.
"""

import importlib
import importlib.metadata
import importlib.util
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.output import json_option, write_json
from subp_contract.errors import CheckFailed

if TYPE_CHECKING:
    from tvm_sched.targets import Target

INSTALL = "pip install -e ."  # brings every package at the version that this one was made for


@dataclass(frozen=True)
class Finding:
    """One thing that a job needs. `mend`: the command that brings it; empty where all is well or nothing helps."""

    job: str
    well: bool
    what: str
    mend: str = ""


JOBS = ("train", "host", "arm", "tune", "bench")  # in the order of `looks`


@click.command("doctor", cls=Compiling)
@click.option(
    "--tracker", metavar="HOST:PORT", help="Also list the boards that are registered at this TVM RPC tracker."
)
@click.option(
    "--for", "job", type=click.Choice(JOBS), help="Look at this job alone; exit code 1 where it lacks something."
)
@json_option("the findings")
def command(tracker: str | None, job: str | None, json_file: Path | None) -> None:
    """Say what this machine has and lacks for each job, and how to mend it."""
    looks = dict(zip(JOBS, (training, compiling, cross_compiling, tuning, benchmarking), strict=True))
    findings = [finding for name in ([job] if job else JOBS) for finding in looks[name]()]
    registered = list(boards(tracker)) if tracker else []
    findings += registered
    tell(findings)
    write_json(json_file, {"findings": [asdict(each) for each in findings]})
    lacking = [finding.what for finding in findings if not finding.well]
    if job and lacking:
        raise CheckFailed(f"this machine is not ready to {findings[0].job}: {lacking[0]}")
    if tracker and not any(finding.well for finding in registered):
        raise CheckFailed(f"no board is free to {registered[0].job}: {registered[0].what}")


def tell(findings: Sequence[Finding]) -> None:
    """Prints the findings, job by job."""
    for job, of_job in groupby(findings, key=lambda finding: finding.job):
        click.secho(job, bold=True)
        for finding in of_job:
            mark = click.style("yes", fg="green") if finding.well else click.style("no ", fg="yellow")
            click.echo(f"  {mark}  {finding.what}" + (f"  ->  {finding.mend}" if finding.mend else ""))


def training() -> Iterator[Finding]:
    """PyTorch and torchvision."""
    torch = yield from _imported("train", "torch")
    if torch:
        cpu = f"CPU, {torch.get_num_threads()} threads"
        yield Finding("train", True, f"device: {torch.cuda.get_device_name() if torch.cuda.is_available() else cpu}")
    yield _installed("train", "torchvision")


def compiling() -> Iterator[Finding]:
    """TVM, a C compiler to link with, and a CPU that there are kernels for."""
    job = "compile for this machine"
    if not (yield from _imported(job, "tvm")):
        return
    from subp_contract.errors import UserError
    from tvm_sched import targets

    try:
        host = targets.get("host")
    except UserError as error:
        yield Finding(job, False, str(error))
        return
    yield Finding(job, True, f"CPU: {host.cpu}, vectors of {host.lanes} floats, {host.cores} cores")
    yield linking(job, host)
    yield Finding(job, True, f"targets: {', '.join(targets.names())}")


def cross_compiling() -> Iterator[Finding]:
    """A linker for boards, a compiler for the program that runs networks there, and TVM's runtime."""
    from subp_contract.errors import UserError
    from tvm_sched import targets
    from tvm_sched.deploy import toolchain, wheels

    job, board = "compile for aarch64 boards", targets.get("cortex-a76")
    yield linking(job, board)
    try:
        runner = toolchain.program_compiler(board.arch)
    except UserError:
        return  # what there is to say has been said
    old = runner == toolchain.zig(board.arch, "c++")
    what = f"bundle: {shlex.join(runner)}"
    if old:
        yield Finding(job, True, what)
    else:
        yield Finding(job, True, f"{what}, for boards no older than this system", "pip install ziglang")
    fetched = "in the cache" if wheels.is_here(board.arch) else "fetched from PyPI when first needed"
    yield Finding(job, True, f"bundle: TVM's runtime, {fetched}")


def linking(job: str, target: "Target") -> Finding:
    """Whether something here links shared libraries for the target."""
    from subp_contract.errors import UserError
    from tvm_sched.deploy import toolchain

    try:
        chosen = toolchain.linker(target)
    except UserError as error:
        return Finding(job, False, str(error))
    others = [shlex.join(each) for each in toolchain.compilers(target.arch) if each != chosen]
    return Finding(job, True, f"linker: {shlex.join(chosen)}" + (f"; also here: {', '.join(others)}" if others else ""))


def tuning() -> Iterator[Finding]:
    """What MetaSchedule's workers and cost model import."""
    yield _installed("tune", "xgboost", "xgboost-cpu", "xgboost")
    for module in ("cloudpickle", "psutil", "tornado"):
        yield _installed("tune", module)


def boards(address: str) -> Iterator[Finding]:
    """The boards of a tuning farm, free or busy. A tracker counts a key's free ones and does not tell them apart."""
    from subp_contract.errors import UserError
    from tvm_sched.tuning.tracker import Tracker

    job = "tune on boards"
    try:
        kinds = Tracker(address).kinds()
    except UserError as error:
        yield Finding(
            job, False, str(error), "python -m tvm.exec.rpc_tracker --host ADDRESS --port 9190 --port-end 9191"
        )
        return
    if not any(kind.devices for kind in kinds):
        yield Finding(
            job,
            False,
            f"no board is registered at {address}",
            f"scripts/serve_board.py --tracker {address} --key KEY --host ADDRESS",
        )
    for kind in kinds:
        waiting = f", {kind.waiting} requests wait" if kind.waiting else ""
        counts = f"{len(kind.devices)} registered, {kind.free} free, {len(kind.devices) - kind.free} busy{waiting}"
        yield Finding(job, kind.free > 0, f"{kind.key}: {counts}: {', '.join(map(str, kind.devices)) or 'none'}")


def benchmarking() -> Iterator[Finding]:
    """ONNX Runtime to compare with, and a machine quiet enough to measure on."""
    from tvm_sched.bench.latency import MachineState

    yield _installed("bench", "onnxruntime")
    yield _installed("bench", "onnxscript")
    machine = MachineState.now()
    if machine.waiting is not None:
        mend = "" if machine.quiet else "end other programs, or wait"
        yield Finding("bench", machine.quiet, f"programs wait for a core {machine.waiting:.0%} of the time", mend)
    if machine.governor is not None:
        steady = machine.governor == "performance"
        mend = "" if steady else "cpupower frequency-set -g performance"
        yield Finding("bench", steady, f"clock governor: {machine.governor}", mend)


def _installed(job: str, module: str, *distributions: str) -> Finding:
    """Whether `module` is installed, by one of the distributions; by default the one of its name."""
    if importlib.util.find_spec(module) is None:
        return Finding(job, False, f"{module} is not installed", INSTALL)
    for name in distributions or (module,):
        try:
            return Finding(job, True, f"{module} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(job, True, f"{module}, of unknown version")


def _imported(job: str, module: str):
    """Yields the finding whether `module` can be imported; returns it, or None."""
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a broken installation raises whatever it breaks on
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Finding(job, False, f"{module}: {reason}", INSTALL)
        return None
    yield Finding(job, True, f"{module} {getattr(imported, '__version__', getattr(imported, 'version', ''))}")
    return imported
