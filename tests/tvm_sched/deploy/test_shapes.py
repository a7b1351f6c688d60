"""One network for several shapes: each has its code, all share the weights, and a call takes the one that fits."""

import numpy as np
import pytest
import torch
from torch import nn
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.deploy import bundle

SHAPES = [(1, 64, 14, 14), (1, 64, 28, 28), (2, 64, 14, 14)]


@pytest.fixture(scope="module")
def network():
    """Winograd's weights, which are prepared, a sparse layer, and outputs whose structure tells the shape."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 128, 1)
            self.third = nn.Conv2d(128, 64, 3, padding=1)

        def forward(self, x):
            y = self.third(self.second(self.first(x).relu()))
            return {"maps": y, "means": y.mean((2, 3)), "height": x.shape[2]}

    torch.manual_seed(0)
    return prune(Net(), 16, 0.5).eval()


@pytest.fixture(scope="module")
def artifact(network):
    return tvm_sched.compile(network, torch.zeros(SHAPES[0]), shapes=SHAPES, threads=1)


@pytest.fixture(scope="module")
def alone(network):
    """Compiled for each shape by itself."""
    return [tvm_sched.compile(network, torch.zeros(shape), threads=1) for shape in SHAPES]


def require_same(network, artifact):
    for shape in SHAPES:
        x = torch.randn(shape)
        with torch.no_grad():
            wanted = network(x)
        for given in (x, x.numpy()):
            made = artifact(given)
            assert list(made) == list(wanted) and made["height"] == shape[2]
            for name in ("maps", "means"):
                np.testing.assert_allclose(np.asarray(made[name]), wanted[name].numpy(), rtol=0, atol=1e-4)


def test_each_shape_is_computed(network, artifact, tmp_path):
    require_same(network, artifact)
    artifact.save(tmp_path / "net.so")
    loaded = tvm_sched.load(tmp_path / "net.so")
    assert loaded.manifest == artifact.manifest
    require_same(network, loaded)
    assert loaded.check() == artifact.check() < 1e-4
    assert len(loaded.errors()) == 6


def test_weights_are_stored_and_prepared_once(alone, artifact, tmp_path):
    sizes, memory = [], artifact.manifest["memory"]
    for number, each in enumerate([*alone, artifact]):
        each.save(tmp_path / f"{number}.so")
        sizes.append((tmp_path / f"{number}.so").stat().st_size)
    weights = [each.manifest["memory"]["weights"] for each in alone]
    layouts = {(row.name, row.kernel): 4 * row.weights for each in alone for row in each.explain()}
    assert memory["weights"] <= 1.1 * sum(layouts.values())  # indices and biases besides
    assert sum(weights) > memory["weights"] + 0.5 * max(weights)
    assert 0 < memory["prepared"] <= sum(each.manifest["memory"]["prepared"] for each in alone)
    assert sizes[-1] < sum(sizes[:-1]) - 0.9 * (sum(weights) - memory["weights"])


def test_layers_are_those_of_the_first_shape(alone, artifact):
    assert [(row.name, row.kernel, row.macs) for row in artifact.explain()] == [
        (row.name, row.kernel, row.macs) for row in alone[0].explain()
    ]


@pytest.mark.parametrize("shape", [(1, 64, 15, 14), (3, 64, 14, 14), (64,), ()])
def test_another_shape_is_refused_with_those_that_exist(artifact, shape):
    words = r"not compiled for inputs of .*, but for \[1, 64, 14, 14\], \[1, 64, 28, 28\], \[2, 64, 14, 14\]"
    with pytest.raises(UserError, match=words):
        artifact(np.zeros(shape, "float32"))
    with pytest.raises(UserError, match="not compiled for inputs of"):
        artifact(3)
    with pytest.raises(UserError, match=r"'x' must be .*\[1, 64, 28, 28\] of float32, not .* of float64"):
        artifact(np.zeros(SHAPES[1]))


def test_several_inputs_have_several_shapes():
    class Gathers(nn.Module):
        def forward(self, rows, *, index):
            return rows[index] * 2

    rows, index = torch.arange(12.0).reshape(4, 3), torch.tensor([3, 0])
    shapes = [((4, 3), (2,)), ((4, 3), (5,)), ((8, 2), (2,))]
    artifact = tvm_sched.compile(Gathers(), rows, {"index": index}, shapes=shapes, threads=1)
    for one, other in shapes:
        x, places = torch.randn(one), torch.randint(0, 4, other)
        assert torch.equal(artifact(x, index=places), x[places] * 2)
    with pytest.raises(UserError, match=r"inputs of \[8, 2\] and \[5\], but for \[4, 3\] and \[2\], "):
        artifact(torch.zeros(8, 2), index=torch.zeros(5, dtype=torch.int64))
    assert artifact.check() == 0


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([], "no shapes are given"),
        ([(1, 3, 8, 8), [1, 3, 8, 8]], r"the shape \[1, 3, 8, 8\] is given twice"),
        ([((1, 3, 8, 8), (1,))], "2 shapes are given together, and the network takes 1 input tensors"),
        ([(1, 3, 0, 8)], r"\(1, 3, 0, 8\) is no shape"),
        ([(3, 8, 8)], r"an input of \[1, 3, 8, 8\] cannot have the shape \[3, 8, 8\]"),
        ([(1, 4, 8, 8)], "torch.export cannot trace this network"),
    ],
)
def test_shapes_that_do_not_fit_are_told(shapes, words):
    with pytest.raises(UserError, match=words):
        tvm_sched.compile(nn.Conv2d(3, 16, 1), torch.zeros(1, 3, 8, 8), shapes=shapes)


def test_an_exported_program_has_one_shape():
    program = torch.export.export(nn.ReLU(), (torch.zeros(2),))
    with pytest.raises(UserError, match="an exported program is for the shape it was exported for"):
        tvm_sched.compile(program, shapes=[(2,), (3,)])


def test_a_bundle_is_of_one_shape(artifact):
    with pytest.raises(UserError, match="is compiled for 3 shapes, and a bundle runs one"):
        bundle.require_runnable(artifact.manifest, "net.so")
