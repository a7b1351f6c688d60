"""`subp quickstart`: the main job on real data, then the same comparison on a full-size network."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.compiling import Compiling
from subp.cli.options.types import FOLDER

if TYPE_CHECKING:
    import numpy as np
    import torch

    from subp.data.loaders import Data
    from subp.deployment.stages import Images
    from tvm_sched.bench.engines import Engine, Network
    from tvm_sched.bench.latency import MachineState
    from tvm_sched.bench.rows import Row

N, SPARSITY = 16, 0.75
PATTERN = f"1x{N} {SPARSITY:.0%}"
MAX_DROP = 0.02  # of accuracy, from dense float32 to the others
DIGITS = 16  # pixels of the digits, which are scanned at 8: three stages of the network halve them to 4
CALIBRATION = 128  # digits to calibrate on
PROFILE_SECONDS = 1.0  # of looking where a build's time goes

# Seconds that the stages take, for the bar: what matters is how they compare.
SECONDS = {
    "starting": 4.0,
    "training dense": 10.0,
    "training sparse": 10.0,
    "tuning": 20.0,
    "building the small networks": 15.0,
    "other engines on the small network": 6.0,
    "measuring the small network": 6.0,
    "building the full-size networks": 35.0,
    "other engines on the full-size network": 6.0,
    "measuring the full-size network": 8.0,
}


@dataclass(frozen=True)
class Scale:
    """How large the job is. The defaults fit in 150 s on two slow cores."""

    model: str = "resnet20"
    epochs: int = 8
    tuning_trials: int = 8  # a kernel
    tuning_minutes: float = 0.3
    measuring_seconds: float = 6.0  # a comparison
    full_size: str = "resnet18"
    pixels: int = 224  # of the full-size network's images


@dataclass
class Report:
    """What `report.json` holds."""

    accuracies: dict[str, float] = field(default_factory=dict)  # on the test images, 0 to 1
    errors: dict[str, dict[str, float]] = field(default_factory=dict)  # file -> stage -> maximum error to PyTorch
    measurements: list["Row"] = field(default_factory=list)
    profiles: list[dict] = field(default_factory=list)  # of the full-size network's sparse builds
    machine: "MachineState | None" = None  # after the last measurement
    seconds: float = 0.0  # that the whole job took


@click.command("quickstart", cls=Compiling, short_help="Train, deploy and compare dense and sparse networks: the tour.")
@click.option(
    "-o", "--output", type=FOLDER, default=Path("runs/quickstart"), show_default=True, help="Folder for the results."
)
def command(output: Path) -> None:
    """Train a small ResNet on handwritten digits, dense and SUBP 1x16 sparse; deploy both, in float32 and in 8 bits,
    and compare them with the engines that are installed.

    Then the same comparison on ResNet-18 at 224x224. One to three minutes on two cores. Leaves report.html,
    report.json, quickstart.png, the networks (.safetensors), the compiled ones (.so) and the tuning records in the
    output folder.
    """
    click.secho("A network is trained, pruned, compiled and measured: one to three minutes", bold=True)
    # PyTorch's threads spin for milliseconds where they wait for each other; when other programs hold the cores,
    # training then takes ten times as long. Set before PyTorch is loaded; latencies are measured on one thread.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    Quickstart(Scale(), output).run()


class Quickstart:
    """The job. Raises CheckFailed where a stage differs from PyTorch, or sparse or 8 bits are far from dense."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        from subp.cli.options.terminal import console

        self.scale, self.folder, self.console = scale, folder, console()
        self.report = Report()
        self.reached: Callable[[str, float], None] = lambda stage, share: None

    def run(self) -> Report:
        """Trains, deploys and compares the small network, compares the full-size one; writes report and picture."""
        from subp.cli.options.terminal import staged

        started = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        with staged(SECONDS, self.console) as self.reached:
            networks = self.small() | self.full_size()
        self.report.seconds = time.perf_counter() - started
        self.write(networks)
        return self.report

    def small(self) -> dict[str, list["Row"]]:
        """Trains and compares the small network; title -> rows."""
        from subp.data import loaders
        from subp.deployment import quantised, stages

        scale, digits = self.scale, loaders.digits(size=DIGITS)
        images = stages.Images.of(digits)
        counts = f"{len(digits.train)} handwritten digits to learn from, {len(digits.val)} to test on"
        self.reached("starting", 1)
        self.say(f"Data: {counts}, {DIGITS}x{DIGITS}")
        self.say(f"Training {scale.model}, dense and SUBP {PATTERN}: same seed, {scale.epochs} epochs each")
        dense, sparse = (self.train(kind, digits, images) for kind in ("dense", "sparse"))

        self.say("Deploying: tuning the sparse network's kernels, compiling all builds for this machine")
        records = self.tune(sparse)
        calibration = quantised.chosen(digits, CALIBRATION, quantised.BATCH, seed=0)
        engines = self.engines("small", dense, sparse, images.inputs, calibration, records)
        for engine in engines:
            if engine.precision == "int8" and engine.name.startswith("subp"):
                outputs = stages.one_by_one(engine.call, images.inputs)
                self.judge(f"{engine.name.removeprefix('subp-')} int8", images.accuracy(outputs))
        return {f"{scale.model}, {PATTERN}, trained": self.measure("small", engines, images.inputs[:1])}

    def full_size(self) -> dict[str, list["Row"]]:
        """Compares the full-size network, of random weights; title -> rows."""
        import torch

        from subp.deployment.random_networks import random_network

        name, pixels = self.scale.full_size, self.scale.pixels
        self.say(f"{name}, {pixels}x{pixels}, random weights, {PATTERN}: the same comparison")
        network = random_network(name, n=N, sparsity=SPARSITY, seed=0, size=pixels, batch=1)
        x = network.example_input.numpy()
        calibration = [torch.from_numpy(each) for each in network.random_inputs()]
        engines = self.engines("full-size", network, network, x, calibration)
        rows = self.measure("full-size", engines, x)
        self.profile(engines, rows, x)
        return {f"{name}, {PATTERN}, random weights": rows}

    def train(self, kind: str, digits: "Data", images: "Images") -> "Network":
        """The network of that kind, 'dense' or 'sparse', trained and read back from its file."""
        from subp.deployment import stages
        from subp.pruning.methods import DEFAULT, DENSE
        from subp.training.config import Config
        from subp.training.progress import Progress

        config = Config(
            model=self.scale.model,
            method=DEFAULT if kind == "sparse" else DENSE,
            n=N,
            sparsity=SPARSITY,
            epochs=self.scale.epochs,
            batch_size=32,
            warmup_epochs=1,
            label_smoothing=0,
        )
        name = f"{config.model}-{kind}"
        path = self.folder / f"{name}.safetensors"
        progress = Progress(self.console, f"   {kind:6} ", partial(self.reached, f"training {kind}"))
        network, self.report.errors[name] = stages.train(digits, config, images, path, progress)
        self.judge(kind, images.accuracy(network.reference(images.inputs)))
        return network

    def judge(self, kind: str, accuracy: float) -> None:
        """Notes the accuracy; raises CheckFailed where it is not about that of dense, which is the first."""
        from subp_contract.errors import CheckFailed

        self.report.accuracies[kind] = accuracy
        click.echo(f"   {kind}: {accuracy:.1%} of the test digits right")
        dense = self.report.accuracies["dense"]
        if dense - accuracy > MAX_DROP:
            raise CheckFailed(f"{kind} accuracy, {accuracy:.1%}, is more than {MAX_DROP:.0%} below dense, {dense:.1%}")

    def tune(self, network: "Network") -> Path:
        """The folder with the records of a short search over the network's kernels."""
        import tvm_sched
        from subp.cli.tune import described
        from subp.deployment.stages import THREADS

        records = self.folder / "records"
        summary = tvm_sched.tune(
            network.module,
            network.example_input,
            threads=THREADS,
            records=records,
            trials=self.scale.tuning_trials,
            minutes=self.scale.tuning_minutes,
            progress=lambda done, total, kernel: self.reached("tuning", done / total),
        )
        click.echo(f"   {described(summary)}")
        return records

    def engines(
        self,
        size: str,
        dense: "Network",
        sparse: "Network",
        inputs: "np.ndarray",
        calibration: list["torch.Tensor"],
        records: Path | None = None,
    ) -> list["Engine"]:
        """Other engines and our builds, dense and sparse, in float32 and 8 bits, each checked on `inputs` [B, ...]."""
        from subp.deployment import stages

        ready = []
        for done, engine in enumerate(self.builds(dense, sparse, inputs, calibration, records), 1):
            ready.append(engine)
            self.reached(f"building the {size} networks", done / 4)
        others = stages.references(dense, inputs)
        self.report.errors[f"{dense.name}-dense"].update(others.errors)
        self.reached(f"other engines on the {size} network", 1)
        self.say(f"Checks: largest absolute error to PyTorch, over {len(inputs)} image{'s' * (len(inputs) > 1)}")
        for name, errors in self.report.errors.items():
            if name.startswith(dense.name):
                click.echo(f"   {name}: " + ", ".join(f"{stage} {error:.1e}" for stage, error in errors.items()))
        for why in others.missing:
            click.echo(f"   not measured: {why}")
        return [*others.engines, *ready]

    def builds(
        self,
        dense: "Network",
        sparse: "Network",
        inputs: "np.ndarray",
        calibration: list["torch.Tensor"],
        records: Path | None,
    ) -> Iterator["Engine"]:
        """Our engines, one after another. `dense` and `sparse` may be one network, whose zeros the first computes."""
        from subp.deployment import stages

        for precision in ("float32", "int8"):
            program = None
            for kind, network in (("dense", dense), ("sparse", sparse)):
                if program is None or network is not dense:
                    program = stages.program(network, calibration if precision == "int8" else None)
                suffix = "" if precision == "float32" else f"-{precision}"
                path = self.folder / f"{network.name}-{kind}{suffix}.so"
                engine, errors = stages.deploy(
                    network, program, inputs, path, dense=kind == "dense", records=records, precision=precision
                )
                self.report.errors.setdefault(path.stem, {}).update(errors)
                yield engine

    def measure(self, size: str, ready: list["Engine"], x: "np.ndarray") -> list["Row"]:
        """The engines' rows for one image `x` [1, ...]."""
        from subp.cli.options.terminal import show
        from tvm_sched.bench import engines, latency
        from tvm_sched.bench.rows import table

        self.say(f"Latency of {ready[0].network.name}: one image, one thread, engines in turn")
        rows = engines.compare(ready, x, self.scale.measuring_seconds)
        self.reached(f"measuring the {size} network", 1)
        show(table(rows), self.console)
        for line in summary(rows):
            click.echo(f"   {line}")
        self.report.measurements += rows
        self.report.machine = latency.MachineState.now()
        return rows

    def profile(self, ready: list["Engine"], rows: list["Row"], x: "np.ndarray") -> None:
        """Notes where the time of our sparse builds goes."""
        from subp.deployment.stages import THREADS
        from subp.deployment.suite_run import labelled
        from tvm_sched.bench import profile

        for engine, row in zip(ready, rows, strict=True):
            if engine.name == "subp-sparse":
                steps = profile.profile(engine.call, x, row.peak_gflops, THREADS, PROFILE_SECONDS)
                self.report.profiles.append(labelled(row, steps))

    def write(self, networks: dict[str, list["Row"]]) -> None:
        """Report and picture; title -> rows of each network."""
        from subp.deployment import picture
        from subp.deployment.report import content, page
        from subp_contract.files import write_atomically

        accuracies = {"dense": self.report.accuracies["dense"], f"SUBP {PATTERN}": self.report.accuracies["sparse"]}
        png = picture.draw(accuracies, networks, f"one thread of {self.report.machine}")
        write_atomically(self.folder / "quickstart.png", png)
        numbers = self.folder / "report.json"
        write_atomically(numbers, json.dumps(asdict(self.report), indent=2).encode())
        runs = [self.folder / f"{self.scale.model}-{kind}.safetensors" for kind in ("dense", "sparse")]
        html = page.page(content.read([*runs, numbers]), f"Quickstart: {self.scale.model} and {self.scale.full_size}")
        write_atomically(self.folder / "report.html", html.encode())
        self.say(f"Done in {self.report.seconds:.0f} s on {self.report.machine}")
        click.echo(f"   {self.folder}/report.html: curves, blocks and latencies on one page")

    def say(self, heading: str) -> None:
        """A line in bold."""
        click.secho(heading, bold=True)


def summary(rows: list["Row"]) -> Iterator[str]:
    """How much faster our sparse build is than what one would use otherwise, in each precision."""
    for precision in ("float32", "int8"):
        median_ms = {row.engine: row.median_ms for row in rows if row.precision == precision}
        sparse, dense = median_ms.pop("subp-sparse"), median_ms.pop("subp-dense")
        beside = {engine: median_ms[engine] for engine in sorted(median_ms, key=median_ms.__getitem__)[:1]}
        beside |= {"our dense build": dense}  # alone, where no other engine computes in this precision
        yield f"sparse in {precision} is " + ", ".join(
            f"{ms / sparse:.2f} times as fast as {engine}" for engine, ms in beside.items()
        )
