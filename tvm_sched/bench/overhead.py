"""What a call costs beside its kernels: that of networks whose kernels do next to nothing."""

from dataclasses import dataclass

import tvm_sched
from tvm_sched.bench.latency import Candidate, fastest_cpus, measure, pinned

GOAL_US, CALLS = 50, 60  # a call of a network of so many layers is to cost no more than this
SECONDS = 1.0  # of measuring
MORE = 32  # layers of the longer of the two networks, beside the first


@dataclass(frozen=True)
class Overhead:
    """Microseconds from Python, medians, one thread."""

    call_us: float  # a network of one layer, NumPy in and out
    layer_us: float  # each layer more, what little it computes included

    @property
    def network_us(self) -> float:
        """A network of CALLS layers."""
        return self.call_us + (CALLS - 1) * self.layer_us

    def __str__(self) -> str:
        verdict = "yes" if self.network_us <= GOAL_US else "NO"
        whole = f"{self.network_us:.0f} us for {CALLS} (goal {GOAL_US} us: {verdict})"
        return f"{self.call_us:.1f} us a call, {self.layer_us:.2f} us a layer more: {whole}"


def measure_overhead() -> Overhead:
    """From 1x1 convolutions of 16 channels on one pixel, a chain of one and one of many."""
    import torch

    x = torch.ones(1, 16, 1, 1)

    def chain(length: int):
        layers = [torch.nn.Sequential(torch.nn.Conv2d(16, 16, 1), torch.nn.ReLU()) for _ in range(length)]
        return tvm_sched.compile(torch.nn.Sequential(*layers), x, threads=1)

    short, long = chain(1), chain(1 + MORE)
    given = x.numpy()
    with pinned(fastest_cpus(1)):
        timings = measure({"short": Candidate(lambda: short(given)), "long": Candidate(lambda: long(given))}, SECONDS)
    return Overhead(
        1e3 * timings["short"].median_ms, 1e3 * (timings["long"].median_ms - timings["short"].median_ms) / MORE
    )
