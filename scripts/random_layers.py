"""Random convolution and linear layers, each in a kernel and form that is drawn too, held against float64.

`networks` draws a few layers that are compiled together; `require_right` compiles them, runs them on one and on several
threads, twice each, and compares. Shapes that do not divide anything are as likely as others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from emulated_layers import Board
from hypothesis import strategies as st
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401, makes the operators known
from torch.nn import functional as F

from subp_contract import pattern
from tvm_sched import pipeline, precision, runtime, targets
from tvm_sched.deploy.artifact import Artifact
from tvm_sched.deploy.manifest import make_manifest
from tvm_sched.frontend import torch_export
from tvm_sched.kernels.base import dtype_named
from tvm_sched.planning.plan import Plan, plans_of
from tvm_sched.quiet import quiet
from tvm_sched.targets import Target
from tvm_sched.verification.host import for_here

quantized = torch.ops.quantized_decomposed
MOST = 8  # layers that are compiled together
ACTIVATIONS = ("none", "relu", "relu6", "residual")
DIRECT_ERROR = 2e-6  # of a direct kernel, of the sum of the products' magnitudes; others' in multiples of it
HALF_ERROR = 8e-3  # the same of sums in float16
SCALE, ZERO_POINT, WEIGHT_SCALE = 0.03, 121, 0.01  # of numbers in 8 bits


@dataclass(frozen=True)
class Problem:
    """One layer, and which of its forms it is computed in."""

    batch: int
    channels: int  # of the input, a group
    outputs: int  # channels, a group
    groups: int
    image: tuple[int, int] | None  # None: a linear layer
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    n: int  # of the blocks of zeros
    density: float
    bias: bool
    behind: str  # one of ACTIVATIONS
    form: int  # which, counted round
    seed: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the network's input."""
        channels = self.channels * self.groups
        return (self.batch, channels, *self.image) if self.image else (self.batch, channels)


EXTENTS = st.integers(1, 3) | st.integers(1, 11)  # of an image: as often fewer pixels than a vector has


def problems() -> st.SearchStrategy[Problem]:
    """Layers of up to 24 channels and 40 outputs a group, and images of up to 11x11 pixels, or as the kernel needs."""
    pairs = st.tuples
    made = st.builds(
        Problem,
        batch=st.integers(1, 3),
        channels=st.integers(1, 24),
        outputs=st.integers(1, 40),
        groups=st.sampled_from([1, 1, 1, 2, 3]),
        image=st.none() | pairs(EXTENTS, EXTENTS),
        kernel=st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (1, 3), (7, 2)]),
        stride=pairs(st.integers(1, 3), st.integers(1, 3)) | st.just((1, 1)),
        padding=pairs(st.integers(0, 3), st.integers(0, 3)),
        dilation=pairs(st.integers(1, 2), st.integers(1, 2)) | st.just((1, 1)),
        n=st.sampled_from(sorted(pattern.SIZES)),
        density=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
        bias=st.booleans(),
        behind=st.sampled_from(ACTIVATIONS),
        form=st.integers(0, 63),
        seed=st.integers(0, 2**16),
    )
    drawn = st.one_of(made, made.map(depthwise), made.map(whole_blocks), made.map(whole_blocks).map(plain_3x3))
    return drawn.map(linear_or_fitting)


def depthwise(problem: Problem) -> Problem:
    """The same with a kernel a channel."""
    return replace(problem, groups=problem.channels, channels=1, outputs=1, image=problem.image or (7, 7))


def whole_blocks(problem: Problem) -> Problem:
    """The same with outputs that N divides, so that there are zeros to skip, and for Winograd to take."""
    return replace(problem, groups=1, outputs=problem.n * (1 + problem.outputs % 3), channels=max(problem.channels, 4))


def plain_3x3(problem: Problem) -> Problem:
    """The same as Winograd's algorithm takes it."""
    one = (1, 1)
    padding = tuple(min(each, 1) for each in problem.padding)
    return replace(problem, kernel=(3, 3), stride=one, dilation=one, padding=padding, image=problem.image or (6, 7))


def linear_or_fitting(problem: Problem) -> Problem:
    """A linear layer without what only convolutions have; an image that the kernel fits into."""
    if problem.image is None:
        one = (1, 1)
        return replace(problem, groups=1, kernel=one, stride=one, dilation=one, padding=(0, 0))
    reach = [d * (k - 1) + 1 for k, d in zip(problem.kernel, problem.dilation, strict=True)]
    least = [max(extent - 2 * pad, 1) for extent, pad in zip(reach, problem.padding, strict=True)]
    return replace(problem, image=tuple(map(max, problem.image, least)))


class Layer(nn.Module):
    """The layer of a problem; of `int8` numbers what a quantised network has in its place."""

    def __init__(self, problem: Problem, int8: bool = False):
        super().__init__()
        rng = np.random.default_rng(problem.seed)
        outputs = problem.outputs * problem.groups
        weight = rng.standard_normal((outputs, problem.channels, *problem.kernel)).astype("float32")
        for first in range(0, outputs, problem.n):
            pruned = rng.random(problem.channels) >= problem.density
            weight[first : first + problem.n, pruned & (np.arange(problem.channels) > 0)] = 0
        self.problem, self.int8 = problem, int8
        self.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        if int8:
            whole = (self.weight / WEIGHT_SCALE / 8).round().clamp(-127, 127).to(torch.int8)
            self.weight = nn.Parameter(whole, requires_grad=False)
            self.register_buffer("scales", torch.from_numpy(rng.uniform(0.005, 0.02, outputs).astype("float32")))
            self.register_buffer("zeros", torch.zeros(outputs, dtype=torch.int64))
        bias = torch.from_numpy(rng.standard_normal(outputs).astype("float32"))
        self.bias = nn.Parameter(bias, requires_grad=False) if problem.bias else None

    def forward(self, x):
        weight = self.weight
        if self.int8:
            q = quantized.quantize_per_tensor.default(x, SCALE, ZERO_POINT, 0, 255, torch.uint8)
            x = quantized.dequantize_per_tensor.default(q, SCALE, ZERO_POINT, 0, 255, torch.uint8)
            weight = quantized.dequantize_per_channel.default(weight, self.scales, self.zeros, 0, -127, 127, torch.int8)
            weight = weight if self.problem.image else weight[:, :, 0, 0]
        return self.applied(x, weight, self.bias)

    def applied(self, x, weight, bias):
        """The layer, and what is behind it."""
        problem = self.problem
        if problem.image is None:
            y = F.linear(x, weight.reshape(len(weight), -1), bias)
        else:
            y = F.conv2d(x, weight, bias, problem.stride, problem.padding, problem.dilation, problem.groups)
        if problem.behind == "residual":
            return y + y.abs().flip(-1)
        return {"none": lambda y: y, "relu": F.relu, "relu6": F.relu6}[problem.behind](y)

    def exactly(self, x: torch.Tensor, stored: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(what it gives in float64, the sums of the products' magnitudes). stored: dtype of its weights."""
        x, weight = x.double(), self.weight.double()
        if self.int8:
            x = ((x.float() * (1 / SCALE)).round() + ZERO_POINT).clamp(0, 255).double()
            x = (x - ZERO_POINT) * float(np.float32(SCALE))
            weight = weight * self.scales.double().reshape(-1, 1, 1, 1)
        if stored:
            weight = torch.from_numpy(self.weight.numpy().astype(dtype_named(stored)).astype("float64"))
        bias = None if self.bias is None else self.bias.double()
        plain = Layer.__new__(Layer)
        nn.Module.__init__(plain)
        plain.problem = replace(self.problem, behind="none")
        size = plain.applied(x.abs(), weight.abs(), None if bias is None else bias.abs())
        return self.applied(x, weight, bias), size


class Network(nn.Module):
    """Layers beside one another, each of an input of its own."""

    def __init__(self, layers: Sequence[Layer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs):
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def networks(most: int = MOST) -> st.SearchStrategy[list[Problem]]:
    """Up to so many layers."""
    return st.lists(problems(), min_size=1, max_size=most)


def require_right(
    problems: Sequence[Problem],
    word: str = "float32",
    target: str | Target = "host",
    threads: int = 1,
    board: Board | None = None,
) -> list[str]:
    """Compiles the layers for so many threads and compares them; the names of their kernels. Raises AssertionError
    where one is wrong. word: precision; 'stored' for float32 with weights of 16 bits. board: runs them, on one thread,
    else this machine
    """
    layers = [Layer(problem, int8=word == "int8").eval() for problem in problems]
    inputs = [
        torch.from_numpy(np.random.default_rng(problem.seed + 1).standard_normal(problem.input_shape).astype("float32"))
        for problem in problems
    ]
    plans: dict[str, Plan] = {}

    def choose(name, layer, target, restriction):
        if ranked := plans_of(layer, target, restriction):
            plans[name] = drawn(ranked, problems[int(name.split(".")[1])].form)
        return plans.get(name)

    asked = replace(targets.get(target), cores=threads)
    with quiet():
        artifact = compiled(Network(layers), inputs, word, asked, choose, here=board is None)
    arrays = [x.numpy() for x in inputs]
    given = artifact.run_flat(arrays) if board is None else board.run_flat(artifact, arrays)
    for count in range(1, min(threads, runtime.most_threads()) + 1) if board is None else ():
        artifact.threads = count
        for again in artifact.run_flat([x.numpy() for x in inputs]), artifact.run_flat(inputs):
            for one, other in zip(given, again, strict=True):
                assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), f"other bits on {count} threads"
    names = []
    for number, (layer, x, y) in enumerate(zip(layers, inputs, given, strict=True)):
        plan = plans.get(f"layers.{number}")
        exact, size = layer.exactly(x, plan.form.weights if plan else None)
        relative = HALF_ERROR if word == "float16" else DIRECT_ERROR * rounding_of(plan)
        limit = relative * max(1.0, float(size.max()))
        name = plan.form.kernel.name if plan else "none"
        np.testing.assert_allclose(
            np.asarray(y, "float64"), exact.numpy(), rtol=0, atol=limit, err_msg=f"{name}: {layer.problem}"
        )
        names.append(name)
    return names


def drawn(ranked: Sequence[Plan], number: int) -> Plan:
    """One of a layer's plans: each kernel is as likely as the others, with and without space-to-depth."""
    kinds: dict[tuple, list[Plan]] = {}
    for plan in ranked:
        kinds.setdefault((plan.form.kernel.name, plan.space_to_depth is None), []).append(plan)
    number, kind = divmod(number, len(kinds))
    of_kind = list(kinds.values())[kind]
    return of_kind[number % len(of_kind)]


def rounding_of(plan: Plan | None) -> float:
    """The error of its sums, in multiples of the direct kernel's. Of weights that are stored in 16 bits only those that
    are transformed have an error here, as they are rounded once more.
    """
    if plan is None or (plan.form.weights and plan.form.details is None):
        return 1.0
    return plan.form.rounding


def compiled(
    network: nn.Module, inputs: Sequence[torch.Tensor], word: str, target: Target, choose, here: bool = True
) -> Artifact:
    """The network, whose layers have the plans that `choose` gives, to be run here or to be saved for its target."""
    stored = word == "stored"
    numbers = precision.of("float32" if stored else word, target)
    compilation = pipeline.Compilation(
        target, precision=numbers, choose=choose, weights="float16" if stored else "float32"
    )
    imported = torch_export.from_torch(network, tuple(inputs))
    built = pipeline.build_network(imported, compilation)
    if not here:
        untold = {"outputs": [[0.0] for _ in inputs]}
        return Artifact(built.executable, make_manifest(target, imported, built, check=untold, dense=False), target)
    stand_in, executable = for_here(compilation), built.executable
    if not targets.runs_here(target):
        executable = pipeline.build(built.lowered.mod, stand_in)
    manifest = make_manifest(stand_in.target, imported, built, check={}, dense=False)
    return Artifact(executable, manifest, threads=1)
