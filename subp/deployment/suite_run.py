"""A benchmark suite being run: each case built, checked against PyTorch, measured, and kept on disk before the next.

run = SuiteRun(suite.read("networks"), Settings(["torch"], "host", None, 3.0, 0.0, Path("out.json")))
for case in run.suite.cases:
    print(rows.table(run.measure(case).rows))
run.measure_overhead()
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

import tvm_sched
from subp.deployment.checks import engine_check
from subp.deployment.random_networks import random_layer, random_network
from subp_contract.errors import require
from subp_contract.files import write_atomically
from subp_contract.scratch import scratch_folder
from tvm_sched import runtime
from tvm_sched.bench import engines, latency, memory, overhead, profile
from tvm_sched.bench.engines import Engine, Network
from tvm_sched.bench.latency import MachineState
from tvm_sched.bench.overhead import Overhead
from tvm_sched.bench.profile import Profile
from tvm_sched.bench.rows import Row
from tvm_sched.bench.suite import Case, Suite

PROFILE_SECONDS = 1.0  # for each of our builds


@dataclass(frozen=True)
class Measured:
    """A case: the rows of our builds by sparsity, and of the references; on which CPUs of what machine."""

    ours: dict[float, Row]
    others: list[Row]
    cpus: list[int]
    state: MachineState

    @property
    def rows(self) -> list[Row]:
        """All, ours first."""
        return [*self.ours.values(), *self.others]


@dataclass(frozen=True)
class Settings:
    """How a suite is run."""

    against: list[str]  # names of `engines.REFERENCES`
    target: str  # that ours are compiled for
    records: Path | None  # folder of tuning records, None for those shipped
    seconds: float  # of measuring, for each engine
    minutes: float  # until the core was quiet for long enough, at the most
    file: Path | None
    precision: str = "float32"  # of ours
    weights: str = "float32"  # likewise, dtype in which they may be stored


class SuiteRun:
    """Runs a suite. What is measured is in `content`, and in the settings' file where there is one, before the next
    case begins. Raises UserError where threads lack.
    """

    def __init__(self, chosen: Suite, settings: Settings) -> None:
        wanted, most = max(case.threads for case in chosen.cases), runtime.most_threads()
        require(wanted <= most, f"the suite {chosen.name} wants {wanted} threads; this process may use {most}")
        self.suite, self.settings = chosen, settings
        self.content = {"suite": chosen.name, "about": chosen.about}
        self.content |= {"measurements": [], "profiles": [], "not_quiet": []}

    def measure(self, case: Case, progress: Callable[[int, int], None] = lambda done, total: None) -> Measured:
        """One case. `progress`: called with (engines built and rounds measured, in all). Raises CheckFailed where an
        engine differs from PyTorch.
        """
        with scratch_folder() as folder:
            measured = self._measured(case, folder, progress)
        self._save()
        return measured

    def measure_overhead(self) -> Overhead:
        """What a call costs besides computing."""
        call = overhead.measure_overhead()
        self.content["overhead"] = asdict(call) | {"network_us": call.network_us, "goal_us": overhead.GOAL_US}
        self._save()
        return call

    def _measured(self, case: Case, folder: Path, progress: Callable[[int, int], None]) -> Measured:
        networks = [network_of(case, sparsity) for sparsity in case.sparsities]
        x = networks[0].example_input.numpy()
        engines_in_all = len(networks) + len(self.settings.against)
        ours, others = [], []
        for number, network in enumerate(networks):
            progress(number, engines_in_all + latency.ROUNDS)
            ours.append(self._deployed(case, network, folder / f"{number}.so"))
        for number, name in enumerate(self.settings.against, len(ours)):
            progress(number, engines_in_all + latency.ROUNDS)
            others.append(reference(name, networks[0], case.threads))
        for engine in [*ours, *others]:
            engine.prepare()
            engine_check(engine, f"{engine.name} on {case}", engine.call(x), engine.network.reference(x))
        cpus = latency.fastest_cpus(case.threads)
        measured = engines.compare(
            [*ours, *others],
            x,
            self.settings.seconds * (len(ours) + len(others)),
            self.settings.minutes,
            lambda done, rounds: progress(engines_in_all + done, engines_in_all + rounds),
        )
        state = MachineState.now()
        goals = [*map(case.goals.get, case.sparsities), *[None] * len(others)]
        measured = [replace(row, goal=goal) for row, goal in zip(measured, goals, strict=True)]
        self.content["machine"] = asdict(state) | {"cpus": cpus}
        self.content["not_quiet"] += [] if state.quiet else [str(case)]
        self.content["measurements"] += map(asdict, measured)
        own, of_others = measured[: len(ours)], measured[len(ours) :]
        for engine, row in zip(ours, own, strict=True):
            steps = profile.profile(engine.call, x, row.peak_gflops, case.threads, PROFILE_SECONDS)
            self.content["profiles"].append(labelled(row, steps))
        return Measured(dict(zip(case.sparsities, own, strict=True)), of_others, cpus, state)

    def _deployed(self, case: Case, network: Network, path: Path) -> Engine:
        """Compiled, saved at `path` and loaded again."""
        x, dense = network.example_input, network.n is None
        options = {"target": self.settings.target, "threads": case.threads, "records": self.settings.records}
        options |= network.options(self.settings.precision) | {"weights": self.settings.weights}
        tvm_sched.compile(network.module, x, dense=dense, **options).save(path)
        artifact, grown = memory.load_measured(path, case.threads)
        return replace(engines.ours(artifact, network, path), rss_growth_bytes=grown)

    def _save(self) -> None:
        """What there is so far."""
        if self.settings.file:
            write_atomically(self.settings.file, json.dumps(self.content, indent=2).encode())


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


def labelled(row: Row, steps: Profile) -> dict:
    """The profile for JSON, with the row's conditions."""
    conditions = ("network", "engine", "precision", "n", "sparsity", "batch", "threads", "peak_gflops")
    return {key: getattr(row, key) for key in conditions} | asdict(steps)


def reached(measured: list[Row]) -> str:
    """How many goals are reached, and how many files are within their limits."""
    goals = [row.reached for row in measured if row.reached is not None]
    files = [row.small for row in measured]
    times = f"{sum(goals)} of {len(goals)} goals reached; " if goals else ""
    return f"{times}{sum(files)} of {len(files)} files within their limits"
