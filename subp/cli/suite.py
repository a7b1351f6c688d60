"""A benchmark suite being run: each case built, checked against PyTorch, measured, and kept on disk before the next."""

import json
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

import tvm_sched
from subp.cli.terminal import console
from subp.deployment.checks import check
from subp.deployment.networks import random_layer, random_network
from subp_contract.errors import require
from subp_contract.files import write_atomically
from tvm_sched import runtime
from tvm_sched.bench import engines, latency, memory, overhead, profile, rows, suite
from tvm_sched.bench.engines import Engine, Network
from tvm_sched.bench.rows import Row
from tvm_sched.bench.suite import Case, Suite

if TYPE_CHECKING:
    from tvm_sched.bench.profile import Profile

PROFILE_SECONDS = 1.0  # for each of our builds


class SuiteRun:
    """Runs a suite. What is measured is in `content`, and in `file` where there is one, before the next case begins.

    against: names of `engines.REFERENCES`
    records: folder of tuning records, None for those shipped
    seconds: of measuring, for each engine
    """

    def __init__(self, chosen: Suite, against: list[str], records: Path | None, seconds: float, file: Path | None):
        self.suite, self.against, self.records, self.seconds, self.file = chosen, against, records, seconds, file
        self.console = console()
        self.content = {"suite": chosen.name, "about": chosen.about}
        self.content |= {"measurements": [], "profiles": [], "not_quiet": []}

    def run(self) -> None:
        """Measures all cases. Raises CheckFailed where an engine differs from PyTorch, UserError where threads lack."""
        wanted, most = max(case.threads for case in self.suite.cases), runtime.most_threads()
        require(wanted <= most, f"the suite {self.suite.name} wants {wanted} threads; this process may use {most}")
        click.secho(f"Suite {self.suite.name}: {self.suite.about}", bold=True)
        results = []
        for case in self.suite.cases:
            click.secho(str(case), bold=True)
            with tempfile.TemporaryDirectory() as folder:
                results.append((case, self.measure(case, Path(folder))))
            self.save()
        call = overhead.measure_overhead()
        self.content["overhead"] = asdict(call) | {"network_us": call.network_us, "goal_us": overhead.GOAL_US}
        self.save()
        self.console.print(suite.summary(results))
        click.echo(reached([row for _, ours in results for row in ours.values()]))
        click.echo(f"Calls: {call}")
        click.echo(f"On {latency.MachineState.now()}")
        if self.content["not_quiet"]:
            click.echo(f"The machine was not quiet at: {'; '.join(self.content['not_quiet'])}")

    def measure(self, case: Case, folder: Path) -> dict[float, Row]:
        """sparsity -> the row of our build; all rows are printed and kept."""
        networks = [network_of(case, sparsity) for sparsity in case.sparsities]
        x = networks[0].example_input.numpy()
        ours = [self.deploy(case, network, folder / f"{i}.so") for i, network in enumerate(networks)]
        others = [reference(name, networks[0], case.threads) for name in self.against]
        for engine in [*ours, *others]:
            engine.prepare()
            check(f"{engine.name} on {case}", engine.call(x), engine.network.reference(x))
        cpus = latency.fastest_cpus(case.threads)
        measured = engines.compare([*ours, *others], x, self.seconds * (len(ours) + len(others)))
        state = latency.MachineState.now()
        goals = [*map(case.goals.get, case.sparsities), *[None] * len(others)]
        measured = [replace(row, goal=goal) for row, goal in zip(measured, goals)]
        self.console.print(rows.table(measured))
        best, median = measured[0].peak_gflops, measured[0].peak_median_gflops
        click.echo(f"   peak {best:.1f} GFLOP/s (median {median:.1f}), on CPU {', '.join(map(str, cpus))}{state.noise}")
        self.content["machine"] = asdict(state) | {"cpus": cpus}
        self.content["not_quiet"] += [] if state.quiet else [str(case)]
        self.content["measurements"] += map(asdict, measured)
        for engine, row in zip(ours, measured):
            steps = profile.profile(engine.call, x, row.peak_gflops, case.threads, PROFILE_SECONDS)
            self.content["profiles"].append(labelled(row, steps))
        return dict(zip(case.sparsities, measured))

    def deploy(self, case: Case, network: Network, path: Path) -> Engine:
        """Compiled, saved at `path` and loaded again."""
        x, dense = network.example_input, network.n is None
        tvm_sched.compile(network.module, x, threads=case.threads, records=self.records, dense=dense).save(path)
        artifact, grown = memory.load_measured(path, case.threads)
        return replace(engines.ours(artifact, network, path), rss_growth_bytes=grown)

    def save(self) -> None:
        """What there is so far."""
        if self.file:
            write_atomically(self.file, json.dumps(self.content, indent=2).encode())


def network_of(case: Case, sparsity: float) -> Network:
    """The case's network or layer with random weights, told by the sparsity that was asked for."""
    if case.layer:
        return random_layer(case.layer, n=case.n, sparsity=sparsity, batch=case.batch)
    network = random_network(case.name, n=case.n, sparsity=sparsity, seed=0, size=case.size, batch=case.batch)
    return replace(network, n=case.n if sparsity else None, sparsity=sparsity)


def reference(name: str, network: Network, threads: int) -> Engine:
    """The engine of that name on the network; a single convolution it gets with the channels first, its own layout."""
    make = engines.REFERENCES[name]
    inner = getattr(network.module, "layer", None)
    if inner is None:
        return make(network, threads)
    first = network.example_input.permute(0, 3, 1, 2).contiguous()
    engine = make(replace(network, module=inner, example_input=first), threads)
    return replace(engine, network=network, call=partial(called_channels_first, engine.call, first.numpy()))


def called_channels_first(call, first: np.ndarray, _: np.ndarray) -> np.ndarray:
    """The output for the input [B, C, H, W], seen as [B, H, W, C]."""
    return call(first).transpose(0, 2, 3, 1)


def labelled(row: Row, steps: "Profile") -> dict:
    """The profile for JSON, with the row's conditions."""
    conditions = ("network", "engine", "n", "sparsity", "batch", "threads", "peak_gflops")
    return {key: getattr(row, key) for key in conditions} | asdict(steps)


def reached(measured: list[Row]) -> str:
    """How many goals are reached, and how many files are within their limits."""
    goals = [row.reached for row in measured if row.reached is not None]
    files = [row.small for row in measured]
    times = f"{sum(goals)} of {len(goals)} goals reached; " if goals else ""
    return f"{times}{sum(files)} of {len(files)} files within their limits"
