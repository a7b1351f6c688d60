"""Networks whose weights are stored in 16 bits: right, half the bytes, told layer by layer, and never at any price."""

import copy
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from zeros import calibrate, prune

import tvm_sched
from subp.cli import exit_code
from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.deploy.manifest import RELATIVE, TOLERANCE, error_limit, flags_of, limits
from tvm_sched.planning.narrow_weights import LEAST, holds, stored_types

X = torch.randn(1, 64, 14, 14, generator=torch.Generator().manual_seed(1))
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Network(nn.Module):
    """Two convolutions and a classifier, 1x16 zeros, a quarter kept."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(64, 128, 3, padding=1)
        self.deep = nn.Conv2d(128, 256, 1, stride=2)
        self.head = nn.Linear(256, 1000)

    def forward(self, x):
        return self.head(self.deep(self.wide(x).relu()).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return prune(Network(), 16, 0.25).eval()


def compiled(network, weights, **options):
    return tvm_sched.compile(network, X, threads=1, weights=weights, **options)


def dtypes(artifact) -> dict[str, str]:
    return {choice.name: choice.weights_dtype for choice in artifact.explain()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_network_of_the_rounded_weights(network, dtype):
    artifact = compiled(network, dtype, winograd=False)
    assert set(dtypes(artifact).values()) == {dtype}
    rounded = copy.deepcopy(network)
    for layer in (rounded.wide, rounded.deep, rounded.head):
        layer.weight.data = layer.weight.to(DTYPES[dtype]).float()
    with torch.no_grad():
        expected = rounded(X).numpy()
        exact = network(X).numpy()
    output = artifact(X.numpy())
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)
    assert 1e-5 < abs(output - exact).max() < error_limit(exact, relative=RELATIVE[dtype])
    assert [choice.n for choice in artifact.explain()] == [16, 16, None]  # 16 does not divide the head's outputs
    assert [choice.density for choice in artifact.explain()] == [0.25, 0.25, 1.0]


def test_half_the_file_and_the_memory_and_the_manifest_says_so(network, tmp_path):
    sizes = {}
    for weights in ("float32", "float16"):
        artifact = compiled(network, weights)
        artifact.save(tmp_path / f"{weights}.so")
        loaded = tvm_sched.load(tmp_path / f"{weights}.so", threads=1)
        assert loaded.manifest["weights"] == weights and dtypes(loaded) == dtypes(artifact)
        (error,) = loaded.errors()
        assert error[1] <= error[2]
        sizes[weights] = os.path.getsize(tmp_path / f"{weights}.so"), loaded.cost(), loaded.manifest
    numbers = sum(row["weights"] for row in sizes["float16"][2]["layers"])
    assert sizes["float32"][1].stored_bytes == 4 * numbers and sizes["float16"][1].stored_bytes == 2 * numbers
    assert 1.9 * numbers < sizes["float32"][0] - sizes["float16"][0] < 2.1 * numbers
    assert sizes["float16"][1].weights_bytes < 0.6 * sizes["float32"][1].weights_bytes
    for weights, relative in (("float32", 0.0), ("float16", RELATIVE["float16"])):
        manifest = sizes[weights][2]
        largest = max(map(abs, manifest["check"]["outputs"][0]))
        assert limits(manifest) == [pytest.approx(max(TOLERANCE * max(1, largest), relative * largest))]
        assert manifest["check"]["verified"]
        assert manifest["check"]["tolerance"] == pytest.approx(limits(manifest)[0], rel=0.5)  # of another input


def test_a_cpu_must_have_the_conversion():
    for name, weights, more in (
        ("x86-avx2", "float16", ["f16c"]),
        ("x86-avx2", "bfloat16", []),
        ("cortex-a76", "float16", []),
    ):
        target = targets.get(name)
        assert flags_of(target, {"float32", weights}) == [*target.cpu_flags, *more]


def test_a_layer_whose_weights_it_does_not_hold_stays_exact(network):
    large = copy.deepcopy(network)
    large.deep.weight.data *= 1e7
    large.deep.bias.data *= 1e7
    large.head.weight.data /= 1e7
    artifact = compiled(large, "float16", winograd=False)
    assert dtypes(artifact) == {"wide": "float16", "deep": "float32", "head": "float32"}
    assert [choice.why.endswith("; float16 does not hold its weights") for choice in artifact.explain()] == [
        False,
        True,
        True,
    ]
    assert artifact.manifest["check"]["verified"]


def test_a_layer_of_few_weights_has_nothing_to_gain():
    sizes = [stored_types(np.ones((rows, 1, 1, 1), "float32"), "float16") for rows in (LEAST // 4, LEAST // 4 + 1)]
    assert sizes == [(None,), (None, "float16")]


def test_what_a_format_holds():
    weight = np.random.default_rng(0).standard_normal((8, 8), "float32")
    for scale, half, brain in ((1, True, True), (1e-3, True, True), (1e-6, False, True), (1e5, False, True)):
        assert (holds(scale * weight, "float16"), holds(scale * weight, "bfloat16")) == (half, brain)
    assert not holds(np.array([np.nan, 1], "float32"), "float16") and holds(np.zeros(3, "float32"), "float16")


class Magnified(nn.Module):
    """The sine of a layer's result, large numbers: its weights' rounding is all that is seen."""

    def __init__(self):
        super().__init__()
        self.before = nn.Conv2d(64, 64, 3, padding=1)
        self.after = nn.Conv2d(64, 64, 3, padding=1)
        nn.init.normal_(self.before.weight, std=20 / 24)

    def forward(self, x):
        return self.after(torch.sin(self.before(x)))


def test_a_layer_whose_rounded_weights_the_outputs_show_stays_exact():
    torch.manual_seed(0)
    artifact = compiled(Magnified().eval(), "float16")
    assert dtypes(artifact) == {"before": "float32", "after": "float16"}
    before = artifact.explain()[0]
    assert "float16 weights left out: the outputs would show the rounding of its weights" in before.why
    assert artifact.manifest["check"]["verified"]


def test_batch_norms_are_folded_before_weights_are_rounded():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64))
    network = calibrate(network, X)
    artifact = compiled(network, "bfloat16", winograd=False)
    conv, norm = network
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    weight = (conv.weight.detach() * scale[:, None, None, None]).bfloat16().float()
    bias = (norm.bias - norm.running_mean * scale).detach()
    expected = nn.functional.conv2d(X, weight, bias, padding=1).numpy()
    assert abs(artifact(X.numpy()) - expected).max() < 2e-3  # a product may round the other way here and there
    assert np.median(abs(artifact(X.numpy()) - expected)) < 1e-6


def test_other_targets_choose_by_their_own_costs_and_pass_the_check(network):
    artifact = tvm_sched.compile(network, X, target=replace(targets.get("cortex-a76"), cores=1), weights="bfloat16")
    assert dtypes(artifact)["head"] == "bfloat16" and artifact.manifest["check"]["verified"]


def test_a_word_that_is_no_dtype_is_told(network):
    with pytest.raises(UserError, match="weights are stored as float32, float16, bfloat16, not as 'int4'"):
        compiled(network, "int4")
    with pytest.raises(UserError, match="weights of float16 are for networks that compute in float32, and precision"):
        compiled(network, "float16", precision="float16", target="cortex-a76")


def test_the_command_says_each_layers_dtype(network, tmp_path, capsys):
    program = torch.export.export(network, (X,))
    torch.export.save(program, tmp_path / "net.pt2")
    arguments = ["compile", str(tmp_path / "net.pt2"), "--threads", "1", "-o", str(tmp_path / "net.so")]
    assert exit_code([*arguments, "--weights", "float16", "--explain"]) == 0
    assert "float16" in capsys.readouterr().out
    assert exit_code([*arguments, "--weights", "int4"]) == 2
    assert "'int4' is not one of" in capsys.readouterr().err
    assert exit_code([*arguments, "--weights", "float16", "--precision", "int8"]) == 2
    assert "leave out one of the two" in capsys.readouterr().err
