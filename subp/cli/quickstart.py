"""`subp quickstart`: the main job on real data, then the same comparison on a full-size network."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from subp.cli.options.types import FOLDER

if TYPE_CHECKING:
    import numpy as np

    from subp.data.loaders import Data
    from subp.deployment.stages import Images
    from tvm_sched.bench.engines import Network
    from tvm_sched.bench.latency import MachineState
    from tvm_sched.bench.rows import Row

N, SPARSITY = 16, 0.75
PATTERN = f"1x{N} {SPARSITY:.0%}"
MAX_DROP = 0.02  # of accuracy, from dense to sparse


@dataclass(frozen=True)
class Scale:
    """How large the job is. The defaults fit in five minutes on two cores."""

    model: str = "resnet20"
    epochs: int = 15
    tuning_trials: int = 8  # a kernel
    tuning_minutes: float = 0.75
    measuring_seconds: float = 8.0  # a comparison
    full_size: str = "resnet18"
    pixels: int = 224  # of the full-size network's images


@dataclass
class Report:
    """What `report.json` holds."""

    accuracies: dict[str, float] = field(default_factory=dict)  # on the test images, 0 to 1
    errors: dict[str, dict[str, float]] = field(default_factory=dict)  # file -> stage -> maximum error to PyTorch
    measurements: list["Row"] = field(default_factory=list)
    machine: "MachineState | None" = None  # after the last measurement
    seconds: float = 0.0  # that the whole job took


@click.command("quickstart", short_help="Train, deploy and compare dense and sparse networks: the tour.")
@click.option(
    "-o", "--output", type=FOLDER, default=Path("runs/quickstart"), show_default=True, help="Folder for the results."
)
def command(output: Path) -> None:
    """Train a small ResNet on handwritten digits, dense and SUBP 1x16 sparse; deploy both and compare them.

    Then the same comparison on ResNet-18 at 224x224. About five minutes on two cores. Leaves report.json,
    quickstart.png, the networks (.safetensors), the compiled ones (.so) and the tuning records in the output folder.
    """
    # PyTorch's threads spin for milliseconds where they wait for each other; when other programs hold the cores,
    # training then takes ten times as long. Set before PyTorch is loaded; latencies are measured on one thread.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    Quickstart(Scale(), output).run()


class Quickstart:
    """The job. Raises CheckFailed where a stage differs from PyTorch, or sparse is far from dense."""

    def __init__(self, scale: Scale, folder: Path) -> None:
        from subp.cli.options.terminal import console

        self.scale, self.folder, self.console = scale, folder, console()
        self.report = Report()

    def run(self) -> Report:
        """Trains, deploys and compares the small network, compares the full-size one; writes report and picture."""
        from subp.data import loaders
        from subp.deployment.random_networks import random_network
        from subp.deployment.stages import Images

        scale, started = self.scale, time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        digits = loaders.digits()
        images = Images.of(digits)
        self.say(f"Data: {len(digits.train)} handwritten digits to learn from, {len(digits.val)} to test on, 32x32")
        self.say(f"Training {scale.model}, dense and SUBP {PATTERN}: same seed, {scale.epochs} epochs each")
        dense, sparse = (self.train(kind, digits, images) for kind in ("dense", "sparse"))
        self.require_accuracy()

        self.say("Deploying: tuning the sparse network's kernels, compiling both networks for this machine")
        records = self.tune(sparse)
        small = self.compare(dense, sparse, images.inputs, records)

        self.say(f"{scale.full_size}, {scale.pixels}x{scale.pixels}, random weights, {PATTERN}: the same comparison")
        full = random_network(scale.full_size, n=N, sparsity=SPARSITY, seed=0, size=scale.pixels, batch=1)
        large = self.compare(full, full, full.example_input.numpy())

        self.report.seconds = time.perf_counter() - started
        self.write({f"{scale.model}, {PATTERN}, trained": small, f"{full.name}, {PATTERN}, random weights": large})
        return self.report

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
        path, progress = self.folder / f"{name}.safetensors", Progress(self.console, f"   {kind:6} ")
        network, self.report.errors[name] = stages.train(digits, config, images, path, progress)
        self.report.accuracies[kind] = images.accuracy(network.reference(images.inputs))
        click.echo(f"   {kind}: {self.report.accuracies[kind]:.1%} of the test digits right")
        return network

    def require_accuracy(self) -> None:
        """Sparse must be about as good as dense."""
        from subp_contract.errors import CheckFailed

        dense, sparse = self.report.accuracies["dense"], self.report.accuracies["sparse"]
        if dense - sparse > MAX_DROP:
            raise CheckFailed(f"sparse accuracy, {sparse:.1%}, is more than {MAX_DROP:.0%} below dense, {dense:.1%}")

    def tune(self, network: "Network") -> Path:
        """The folder with the records of a short search over the network's kernels."""
        import tvm_sched
        from subp.cli.options.terminal import bar
        from subp.cli.tune import described
        from subp.deployment.stages import THREADS

        records = self.folder / "records"
        with bar() as progress:
            summary = tvm_sched.tune(
                network.module,
                network.example_input,
                threads=THREADS,
                records=records,
                trials=self.scale.tuning_trials,
                minutes=self.scale.tuning_minutes,
                progress=progress,
            )
        click.echo(f"   {described(summary)}")
        return records

    def compare(
        self, dense: "Network", sparse: "Network", inputs: "np.ndarray", records: Path | None = None
    ) -> list["Row"]:
        """Our dense and sparse builds and the reference engines: each checked on `inputs` [B, ...], then measured."""
        from subp.cli.options.terminal import show
        from subp.deployment import stages
        from tvm_sched.bench import engines, latency
        from tvm_sched.bench.rows import table

        ready, references_errors = stages.references(dense, inputs)
        for kind, network in (("dense", dense), ("sparse", sparse)):
            path = self.folder / f"{network.name}-{kind}.so"
            engine, errors = stages.deploy(network, inputs, path, dense=kind == "dense", records=records)
            self.report.errors.setdefault(path.stem, {}).update(errors)
            ready.append(engine)
        self.report.errors[f"{dense.name}-dense"].update(references_errors)
        self.say(f"Checks: largest absolute error to PyTorch, over {len(inputs)} image{'s' * (len(inputs) > 1)}")
        for name, errors in self.report.errors.items():
            if name.startswith(dense.name):
                click.echo(f"   {name}: " + ", ".join(f"{stage} {error:.1e}" for stage, error in errors.items()))
        self.say(f"Latency of {dense.name}: one image, one thread, engines in turn")
        rows = engines.compare(ready, inputs[:1], self.scale.measuring_seconds)
        show(table(rows), self.console)
        click.echo(f"   {summary(rows)}")
        self.report.measurements += rows
        self.report.machine = latency.MachineState.now()
        return rows

    def write(self, networks: dict[str, list["Row"]]) -> None:
        """Report and picture; title -> rows of each network."""
        from subp.deployment import picture
        from subp_contract.files import write_atomically

        accuracies = {"dense": self.report.accuracies["dense"], f"SUBP {PATTERN}": self.report.accuracies["sparse"]}
        png = picture.draw(accuracies, networks, f"one thread of {self.report.machine}")
        write_atomically(self.folder / "quickstart.png", png)
        write_atomically(self.folder / "report.json", json.dumps(asdict(self.report), indent=2).encode())
        self.say(f"Done in {self.report.seconds:.0f} s on {self.report.machine}")
        click.echo(f"   {self.folder}/report.json and {self.folder}/quickstart.png")

    def say(self, heading: str) -> None:
        """A line in bold."""
        click.secho(heading, bold=True)


def summary(rows: list["Row"]) -> str:
    """How much faster our sparse build is than what one would use otherwise."""
    median_ms = {row.engine: row.median_ms for row in rows}
    onnxruntime, dense = (median_ms[engine] / median_ms["subp-sparse"] for engine in ("onnxruntime", "subp-dense"))
    return f"sparse is {onnxruntime:.2f} times as fast as ONNX Runtime, {dense:.2f} times as fast as our dense build"
