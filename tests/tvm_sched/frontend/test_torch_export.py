"""From PyTorch to Relax: what is taken, what is refused and in which words, and the names of the layers."""

import contextlib
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subp_contract.errors import UserError
from tvm_sched.frontend import torch_export
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.signature import TensorSpec


def layers(imported) -> list[tuple[str, int]]:
    """(name, numbers in the weight, of a stack of matrices in one) of each variable that is named after a layer, in
    order.
    """
    found = []
    for block in imported.mod["main"].body.blocks:
        for binding in block.bindings:
            if name := layer_of(binding.var):
                shape = [int(extent) for extent in binding.value.args[1].ty.shape]
                matrix = binding.value.op.name == "relax.matmul"
                found.append((name, prod(shape[-2:] if matrix else shape)))
    return found


def names(network, *shape):
    return [name for name, _ in layers(torch_export.from_torch(network.eval(), torch.randn(shape)))]


def test_layers_are_named_in_the_order_they_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(8, 5)
            self.body = nn.ModuleDict({"two": nn.Conv2d(8, 8, 3), "one": nn.Conv2d(3, 8, 1)})

        def forward(self, x):
            return self.last(self.body["two"](self.body["one"](x)).mean((2, 3)))

    network = Backwards()
    found = layers(torch_export.from_torch(network, torch.randn(1, 3, 5, 5)))
    assert found == [("body.one", 3 * 8), ("body.two", 8 * 8 * 9), ("last", 8 * 5)]


def test_a_layer_that_runs_twice_is_named_twice():
    conv = nn.Conv2d(3, 3, 1)
    # It has two names itself.
    assert names(nn.Sequential(conv, nn.ReLU(), conv), 1, 3, 4, 4) in (["0", "0"], ["2", "2"])


def test_attention_is_named_by_its_projections():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = dict(layers(torch_export.from_torch(layer.eval(), torch.randn(2, 5, 8))))
    assert {
        "self_attn.in_proj": 24 * 8,
        "self_attn.out_proj": 64,
        "linear1": 128,
        "linear2": 128,
    }.items() <= found.items()


def test_a_weight_that_is_computed_has_its_modules_name():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 1)))
    assert names(network, 1, 3, 4, 4) == ["0", "1"]


def test_a_bare_parameter_and_a_buffer_have_their_own_names():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(8, 4))
            self.register_buffer("kernel", torch.randn(8, 3, 1, 1))

        def forward(self, x):
            return F.conv2d(x, self.kernel).mean((2, 3)) @ self.matrix

    assert names(Bare(), 1, 3, 4, 4) == ["kernel", "matrix"]


def test_an_exported_program_is_taken_with_its_names():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 5)).eval()
    program = torch.export.export(network, (torch.randn(1, 3, 4, 4),))
    for each in (program, program.run_decompositions()):
        imported = torch_export.from_torch(each, None)
        assert [name for name, _ in layers(imported)] == ["0", "2"]
        assert imported.signature.inputs == (TensorSpec("input", (1, 3, 4, 4), "float32"),)


@pytest.mark.parametrize("traceable", [True, False])
def test_a_frozen_batch_norm_stays_frozen(traceable):
    layers = (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Identity() if traceable else Branches())
    network = nn.Sequential(*layers).train()
    network[1].eval()
    modes = [module.training for module in network.modules()]
    with contextlib.nullcontext() if traceable else pytest.raises(UserError, match="cannot trace"):
        torch_export.export(network, torch.randn(2, 3, 4, 4))
    assert [module.training for module in network.modules()] == modes == [True, True, False, True]


class Branches(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class Selects(nn.Module):
    def forward(self, x):
        return x[x > 0]


class Counts(nn.Module):
    def forward(self, x):
        return x, x.sum().long().item()


class Constant(nn.Module):
    def forward(self, x):
        return None, x.shape[0]


class Unsupported(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(x)[0]


class FailsInPython(nn.Module):
    def forward(self, x):
        return [x][1]


def program_of_any_batch():
    return torch.export.export(nn.ReLU(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))


@pytest.mark.parametrize(
    ("network", "dtype", "words"),
    [
        (Branches(), torch.float32, r"torch.export cannot trace this network on an input of \[2, 3\]"),
        (nn.Conv2d(4, 8, 1), torch.float32, "torch.export cannot trace"),  # 3 channels come
        (TwoInputs(), torch.float32, "torch.export cannot trace"),
        (program_of_any_batch(), torch.float32, r"input 'input' of shape \[s.*\]; this compiler takes fixed shapes"),
        (
            nn.Flatten(),
            torch.float8_e5m2,
            "'input' is float8_e5m2; this compiler takes booleans, whole numbers, and float16",
        ),
        (
            Selects(),
            torch.float32,
            r"operator `index` \(.*`return x\[x > 0\]`\) gives .* depends on values",
        ),
        (Counts(), torch.float32, "returns 'item.*', which is no tensor and no constant"),
        (Constant(), torch.float32, "returns no tensor"),
        (
            Unsupported(),
            torch.float32,
            r"`linalg_qr` \(test_torch_export.py:\d+: `return torch.*no converter",
        ),
        (FailsInPython(), torch.float32, r"torch.export cannot trace.*list index out of range"),
    ],
)
def test_what_cannot_be_compiled_is_told_in_one_line(network, dtype, words):
    with pytest.raises(UserError, match=words) as caught:
        torch_export.from_torch(network, torch.zeros(2, 3, dtype=dtype))
    assert "\n" not in str(caught.value)
