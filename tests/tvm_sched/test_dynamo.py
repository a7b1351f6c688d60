"""The backend of torch.compile: PyTorch's numbers, compiled where it can be, and told where not."""

import re
import warnings
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from torch import nn

from subp_contract.errors import Notice, UserError
from tvm_sched import dynamo

ROOT = Path(__file__).resolve().parents[2]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.layers(x).flatten(1))


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch.compile hands over, in order."""
    made = []

    def backend(graph, example_inputs, **options):
        made.append(dynamo.backend(graph, example_inputs, **options))
        return made[-1]

    torch._dynamo.reset()
    monkeypatch.setattr(dynamo, "traced", backend, raising=False)
    yield made
    torch._dynamo.reset()


@pytest.fixture
def fast(graphs):
    """(model, the same compiled)"""
    torch.manual_seed(0)
    model = Net().eval()
    return model, torch.compile(model, backend=dynamo.traced, options={"threads": 1})


def agree(model, compiled, *shape):
    x = torch.randn(*shape)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_each_shape_is_compiled_when_it_comes(fast, graphs):
    model, compiled = fast
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        for batch in (1, 2, 1):
            agree(model, compiled, batch, 3, 9, 9)
    runs = [run for graph in graphs for run in graph.compiled.values()]
    assert [type(run).__name__ for run in runs] == ["Artifact"] * 2
    assert [layer.name for layer in runs[0].explain()] == ["layers_0", "head"]


@torch.no_grad()
def test_new_weights_are_seen(fast):
    model, compiled = fast
    agree(model, compiled, 1, 3, 9, 9)
    model.head.weight.mul_(2)
    agree(model, compiled, 1, 3, 9, 9)
    model.load_state_dict(Net().state_dict())
    agree(model, compiled, 1, 3, 9, 9)
    model.head.weight.data = torch.randn(5, 16)
    agree(model, compiled, 1, 3, 9, 9)


def test_gradients_are_pytorchs_and_told_once(fast):
    model, compiled = fast
    x = torch.randn(2, 3, 9, 9)
    with pytest.warns(Notice, match=r"leaves a graph to PyTorch: it is called with gradients enabled") as told:
        for _ in range(2):
            compiled(x).sum().backward()
    assert len(told) == 1 and model.head.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_what_is_refused_runs_all_the_same(graphs):
    def sorts(x):
        return torch.linalg.svd(x).S

    compiled = torch.compile(sorts, backend=dynamo.traced)
    x = torch.randn(4, 4)
    with pytest.warns(Notice, match="leaves a graph to PyTorch") as told:
        for _ in range(2):
            torch.testing.assert_close(compiled(x), sorts(x))
    assert len(told) == 1


@torch.no_grad()
def test_many_shapes_are_left_to_pytorch(fast, graphs, monkeypatch):
    monkeypatch.setattr(dynamo, "SHAPES", 1)
    model, compiled = fast
    agree(model, compiled, 1, 3, 9, 9)
    agree(model, compiled, 2, 3, 9, 9)  # from here on of an open batch, a graph of its own
    with pytest.warns(Notice, match="more than 1 shapes"):
        agree(model, compiled, 3, 3, 9, 9)


def test_unknown_options_are_told():
    graph = torch.fx.symbolic_trace(nn.ReLU())
    with pytest.raises(UserError, match="backend 'subp' has no option speed: it has calibration, check, dense"):
        dynamo.backend(graph, [torch.ones(1)], options={"speed": 2})


def test_the_package_tells_pytorch_of_the_backend():
    points = re.search(r'entry-points.torch_dynamo_backends]\nsubp = "(.*)"', (ROOT / "pyproject.toml").read_text())
    assert resolve_name(points[1]) is dynamo.backend
