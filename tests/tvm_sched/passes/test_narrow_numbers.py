"""Which numbers become float16: layers and what follows them, not means, softmax and what is said to stay."""

import pytest
import torch
from relax_run import imported, operators
from torch import nn
from tvm import relax

from tvm_sched.passes.precision.half_precision import half_precision


class Net(nn.Module):
    """Two layers, the second's result gated by its own mean."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = self.second(y) + y
        gated = z * torch.sigmoid(z.mean((2, 3), keepdim=True))
        return torch.softmax(self.last(torch.exp(gated.amax((2, 3)))), -1)


X = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def types(mod) -> dict[str, str]:
    """By operator (a layer's name where it is one), the type of its result; the first of each."""
    found: dict[str, str] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                layer = binding.var.name.removeprefix("layer:")
                name = layer if layer != binding.var.name else binding.value.op.name.removeprefix("relax.")
                found.setdefault(name, str(binding.var.ty.dtype))
    return found


def test_layers_and_what_follows_them_are_narrow_and_curves_and_means_are_not():
    narrow = types(half_precision(imported(Net(), X)))
    assert {narrow[name] for name in ("first", "second", "last", "nn.relu", "add", "multiply")} == {"float16"}
    assert {narrow[name] for name in ("mean", "sigmoid", "exp", "nn.softmax")} == {"float32"}


def test_a_layer_that_stays_wide_computes_in_float32_until_the_next():
    wide = types(half_precision(imported(Net(), X), wide=["first"]))
    assert (wide["first"], wide["nn.relu"], wide["second"]) == ("float32", "float32", "float16")


def test_the_networks_edges_keep_their_types():
    mod = half_precision(imported(Net(), X))
    assert str(mod["main"].params[0].ty.dtype) == str(mod["main"].ret_ty.dtype) == "float32"
    assert operators(mod)[0] == operators(mod)[-1] == "astype" or operators(mod)[-1] == "nn.softmax"


@pytest.mark.parametrize(("scale", "dtype"), [(1.0, "float16"), (1e6, "float32")])
def test_a_weight_beyond_half_precision_keeps_its_layer_wide(scale, dtype):
    network = Net()
    network.second.weight.data *= scale
    assert types(half_precision(imported(network, X)))["second"] == dtype


def test_whole_numbers_and_structures_are_left_alone():
    class Indices(nn.Module):
        def forward(self, x):
            values, index = torch.max(x.flatten(1), 1)
            return {"index": index, "pair": (values, x + 1)}

    mod = half_precision(imported(Indices(), X))
    assert [str(ty.dtype) for ty in mod["main"].ret_ty.fields] == ["int64", "float32", "float32"]
