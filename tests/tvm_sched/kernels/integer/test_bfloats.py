"""Convolutions of bfloat16 against float64 of the same rounded numbers, the rounding itself against PyTorch's, and the
CPU's own instructions for both.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from te_run import function, run
from torch import nn
from torch.nn.functional import conv2d
from tvm import te
from tvm.s_tir import Schedule
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import precision, targets
from tvm_sched.kernels.integer.bfloats import bits_of, floats_of, to_bits, to_float
from tvm_sched.kernels.integer.dots import BFLOAT
from tvm_sched.kernels.integer.planar import planar_conv2d
from tvm_sched.kernels.layer import Layer

TARGET = replace(targets.get("x86-avx512-bf16"), cores=1)
HERE = TARGET if targets.runs_here(TARGET) else targets.on_this_machine(TARGET)
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 3.3961e38, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1.5]  # ties, and overflow


def rounded(x: torch.Tensor) -> torch.Tensor:
    """The nearest numbers of bfloat16, in float64."""
    return x.detach().bfloat16().double()


def numbers(count: int) -> np.ndarray:
    """ODD ones, then normal ones."""
    drawn = np.random.default_rng(0).standard_normal(count - len(ODD)).astype("float32")
    return np.concatenate([np.array(ODD, "float32"), drawn])


@pytest.mark.parametrize("lanes", [1, 16, 64])
@pytest.mark.parametrize("target", [HERE, targets.on_this_machine(targets.get("x86-avx2")), targets.get("x86-avx2")])
def test_rounding_is_pytorchs(lanes, target):
    x = numbers(128)
    given = te.placeholder(x.shape, "float32")
    sch = Schedule(function([given], te.compute(x.shape, lambda i: to_float(to_bits(given(i))), name="y")))
    (loop,) = sch.get_loops(sch.get_sblock("y"))
    if lanes > 1:
        sch.vectorize(sch.split(loop, [None, lanes])[1])
    expected = torch.tensor(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(run(sch, target, [x], x.shape), expected)
    np.testing.assert_array_equal(floats_of(bits_of(x)), expected)


class Layers(nn.Module):
    """Several layers of one image, each an output."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def sparse(*sizes, n: int, **options) -> nn.Conv2d:
    """A convolution with a quarter of its 1xN blocks kept."""
    layer = nn.Conv2d(*sizes, **options)
    prune(layer, n, 0.75)
    return layer


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        (
            (2, 48, 7, 7),
            [
                lambda: sparse(48, 64, 1, n=16),
                lambda: nn.Conv2d(48, 24, (1, 3), stride=2, padding=1, dilation=(1, 2), groups=3, bias=False),
                lambda: nn.Conv2d(48, 48, 3, padding=1, groups=48),
            ],
        ),
        (
            (1, 3, 17, 19),
            [
                lambda: nn.Conv2d(3, 16, 3, stride=2, padding=1),
                lambda: nn.Conv2d(3, 3, 5, stride=2, padding=2, groups=3),
            ],
        ),
    ],
)
def test_layers_equal_float64_of_the_rounded_numbers(shape, layers):
    """What differs is float32's rounding of sums: 2^-24 of the sum of magnitudes a step, at the most."""
    torch.manual_seed(0)
    network, x = Layers(*(make() for make in layers)).eval(), torch.randn(shape)
    artifact = tvm_sched.compile(network, x, target=HERE, precision="bfloat16", check=False)
    assert {choice.precision for choice in artifact.explain()} == {"bfloat16"}
    for layer, found in zip(network.layers, artifact(x), strict=True):
        geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        both = rounded(x), rounded(layer.weight)
        exact = conv2d(*both, None if layer.bias is None else layer.bias.double(), *geometry)
        sizes = conv2d(*(each.abs() for each in both), None, *geometry)
        error = (torch.as_tensor(found).double() - exact).abs()
        assert (error <= 1e-5 * sizes + 1e-6).all()


def test_lanes_over_outputs_serve_bfloat16_too():
    weight = torch.randn(32, 40, 1, 1, generator=torch.Generator().manual_seed(0)).numpy()
    layer = Layer("convolution", weight, (1, 7, 7, 32), 40, dtype="uint16", input_image=(7, 7))
    layouts = planar_conv2d.single_layouts(planar_conv2d.layouts(layer, TARGET, BFLOAT), TARGET)
    form = next(each for each in planar_conv2d.KERNEL.forms(layer, TARGET) if each.n == 16)
    form = replace(form, problem=planar_conv2d.planar_problem(layer, 16, BFLOAT, layouts[0]))
    x = np.random.default_rng(0).standard_normal((1, 40, 7, 7)).astype("float32")
    arrays = [bits_of(x), *form.kernel.pack(form)]
    image, *weights = inputs = [te.placeholder(array.shape, str(array.dtype)) for array in arrays]
    made = planar_conv2d.conv2d(image, *weights, problem=form.problem, out_channels=32)
    mod, exact = function(inputs, made), conv2d(rounded(torch.tensor(x)), rounded(torch.tensor(weight))).numpy()
    for tile in form.kernel.tiles(form.problem, TARGET)[:2]:
        sch = Schedule(mod)
        form.kernel.schedule(sch, tile, TARGET)
        np.testing.assert_allclose(run(sch, HERE, arrays, exact.shape), exact, rtol=1e-5, atol=1e-4)


def test_products_and_rounding_are_the_cpus_own_instructions(tmp_path):
    network, x = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 3)).eval(), torch.randn(1, 16, 8, 8)
    tvm_sched.compile(network, x, target=TARGET, precision="bfloat16", check=False, dump=tmp_path)
    (assembly,) = tmp_path.glob("*machine_code*")
    text = assembly.read_text()
    assert "vdpbf16ps" in text and "vcvtne" in text


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512-vnni", "cortex-a76"])
def test_cpus_without_the_instructions_are_refused(name):
    with pytest.raises(UserError, match=f"target '{name}' has no dot products of bfloat16: that takes an x86 CPU with"):
        precision.of("bfloat16", targets.get(name))
