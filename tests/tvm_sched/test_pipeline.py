"""The pipeline's phases in order, what an observer sees of them, and names that reach the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.pipeline import Compilation

TARGET = replace(targets.host(), cores=1)
X = torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Layers of equal shapes, a strided one, one that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.shared = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 1, bias=False)
        self.down, self.head = nn.Conv2d(16, 32, 3, 2, padding=1), nn.Linear(32, 16)

    def forward(self, x):
        x = self.norm(self.first(x)).relu() + x
        x = self.shared(self.second(x).relu()).relu()
        return self.head(self.down(self.shared(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return prune(Block(), 16, 0.5).eval()


def test_every_phase_is_seen_once_in_order_and_the_machine_code_last(network):
    seen = []
    compilation = Compilation(TARGET, observe=lambda name, content: seen.append((name, type(content).__name__)))
    lowered = pipeline.lower(torch_export.from_torch(network, X), compilation)
    pipeline.build(lowered.mod, compilation)
    names = [pipeline.IMPORTED, *(phase.name for phase in pipeline.PHASES), pipeline.MACHINE_CODE]
    assert [name for name, _ in seen] == names
    assert [kind for _, kind in seen] == ["IRModule"] * (len(names) - 1) + ["str"]


def test_a_dump_holds_a_numbered_file_a_phase(network, tmp_path):
    artifact = tvm_sched.compile(network, X, threads=1, dump=tmp_path / "dump")
    files = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert len(files) == len(pipeline.PHASES) + 2
    assert (
        files[0] == "00_imported.txt" and files[6] == "06_select_kernels.txt" and files[-1].endswith("machine_code.s")
    )
    text = (tmp_path / "dump" / "10_schedule_functions.txt").read_text()
    assert "layer_first" in text and "T.vectorized" in text
    np.testing.assert_allclose(artifact(X.numpy()), network(X).detach().numpy(), rtol=0, atol=1e-4)


def test_a_dump_that_cannot_be_made_is_refused_before_the_work(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/dump: Not a directory"):
        tvm_sched.compile(network, X, threads=1, dump=tmp_path / "file" / "dump")


def test_names_of_layers_reach_the_compiled_calls(network):
    """Layers of equal shapes share a function; the variable of each call says which layer it is."""
    compilation = Compilation(TARGET)
    lowered = pipeline.lower(torch_export.from_torch(network, X), compilation)
    bindings = pipeline.kernel_bindings(lowered.mod)
    named = {layer_of(binding.var): binding.value.args[0].name_hint for binding in bindings if layer_of(binding.var)}
    assert set(named) == {"first", "second", "shared", "shared:1", "down", "head"}
    rows = {(row.function, row.call): row.name for row in lowered.choices}
    assert [row.name for row in lowered.choices] == ["first", "second", "shared", "shared", "down", "head"]
    assert len(rows) == 6  # no two layers claim one call


def test_a_product_of_activations_that_has_a_layers_name_is_no_layer():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, x):
            y = x @ self.weight
            return y @ y.transpose(1, 2)

    compilation = Compilation(TARGET)
    lowered = pipeline.lower(torch_export.from_torch(Both().eval(), torch.randn(2, 12, 16)), compilation)
    (row,) = lowered.choices
    assert (row.op, row.call) == ("linear", 0) and row.function.startswith("direct_conv2d")


@pytest.mark.parametrize(("layer", "x"), [(nn.Conv2d(16, 16, 1, bias=False), X), (nn.Linear(12, 5, bias=False), X)])
def test_a_layer_whose_result_is_the_networks_output_keeps_its_name(layer, x):
    network = nn.Sequential(nn.ReLU(), layer).eval()
    lowered = pipeline.lower(torch_export.from_torch(network, x), Compilation(TARGET))
    assert [row.name for row in lowered.choices] == ["1"]


def test_a_name_that_looks_like_another_layers_second_call_takes_no_row_from_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(16, 16, 1)
            self.add_module("a:1", nn.Conv2d(16, 16, 3, padding=1))

        def forward(self, x):
            return self.a(getattr(self, "a:1")(self.a(x)))

    lowered = pipeline.lower(torch_export.from_torch(Twice().eval(), X), Compilation(TARGET))
    assert sorted(row.name for row in lowered.choices) == ["a", "a", "a:1"]
    assert len({(row.function, row.call) for row in lowered.choices}) == 3
