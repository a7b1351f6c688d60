"""Whatever is compiled is held against PyTorch: what is wrong is refused with the operator that departs first, what
says little is told, and what rounding decides is let through.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm_ffi
from torch import nn
from tvm import IRModule, tirx

import tvm_sched
from subp_contract.errors import CheckFailed, CheckWarning, UserError
from tvm_sched import pipeline
from tvm_sched.kernels.direct_conv2d import KERNEL as DIRECT
from tvm_sched.pipeline import Phase


class Net(nn.Module):
    """Two layers, with a step of the user's own between them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.second = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        y = torch.relu(self.first(x))
        z = torch.sqrt(y + 0.25)  # the step
        return self.second(z).mean((2, 3))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def x():
    return torch.randn(1, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def with_phase(monkeypatch, name, run):
    """The pipeline, the phase of that name followed by `run`, from module to module."""

    def followed(phase):
        return Phase(name, lambda mod, compilation: run(phase.run(mod, compilation)))

    phases = tuple(followed(phase) if phase.name == name else phase for phase in pipeline.FUSING)
    monkeypatch.setattr(pipeline, "FUSING", phases)


def wrong_constant(right, wrong):
    """A pass that puts a number in the place of another in all functions."""

    def changed(mod: IRModule) -> IRModule:
        functions = {
            var: tvm_ffi.structural_map(func, (tirx.FloatImm, replaced)) if isinstance(func, tirx.PrimFunc) else func
            for var, func in mod.functions_items()
        }
        return IRModule(functions, attrs=mod.attrs)

    def replaced(number):
        return tirx.FloatImm(number.ty.dtype, wrong) if number.value == right else number

    return changed


def told(artifact):
    return artifact.manifest["check"]


def test_what_agrees_says_how_well(network, x):
    check = told(tvm_sched.compile(network, x))
    assert check["verified"] and 0 < check["error"] < 1e-5 and check["tolerance"] == pytest.approx(1e-3, rel=1)
    assert check["seed"] == 0 and check["notes"] == []


def test_a_wrong_pass_is_refused_with_the_operator_that_departs_first_and_its_place(network, x, monkeypatch):
    with_phase(monkeypatch, "for_schedules", wrong_constant(0.25, 0.5))
    with pytest.raises(CheckFailed, match=r"first to depart is operator `add` .*test_check.py:\d+: `z = torch.sqrt"):
        tvm_sched.compile(network, x)
    with pytest.raises(UserError, match=r"output 'output' differs from PyTorch by \d.*, more than 1.00e-03; "):
        tvm_sched.compile(network, x)


def test_a_wrong_kernel_is_refused_with_its_layer(network, x, monkeypatch):
    pack = type(DIRECT).pack

    def first_block_lost(kernel, form):
        data, *rest = pack(kernel, form)
        data = np.array(data)
        data[0] = 0
        return [data, *rest]

    monkeypatch.setattr(type(DIRECT), "pack", first_block_lost)
    with pytest.raises(CheckFailed, match=r"operator `convolution` \(module first; .*`y = torch.relu\(self.first"):
        tvm_sched.compile(network, x, winograd=False)


def test_a_fault_of_fusion_alone_is_found_by_bisection(network, x, monkeypatch):
    change = wrong_constant(0.25, 0.5)

    def where_fused(mod):
        fused = any("add" in var.name_hint and "sqrt" in var.name_hint for var in mod.get_global_vars())
        return change(mod) if fused else mod

    with_phase(monkeypatch, "for_schedules", where_fused)
    with pytest.raises(CheckFailed, match=r"the first to depart is operator `sqrt`"):
        tvm_sched.compile(network, x)


def test_numbers_that_become_none_are_refused(network, x, monkeypatch):
    with_phase(monkeypatch, "for_schedules", wrong_constant(0.25, -1.0))
    with pytest.raises(CheckFailed, match=r"NaN or infinite.*operator `add`"):
        tvm_sched.compile(network, x)


def test_the_check_can_be_left_out(network, x, monkeypatch):
    with_phase(monkeypatch, "for_schedules", wrong_constant(0.25, 0.5))
    check = told(tvm_sched.compile(network, x, check=False))
    assert not check["verified"] and check["notes"] == ["not checked against PyTorch, as asked"]


def test_a_wrong_network_for_another_cpu_is_refused_too(network, x, monkeypatch):
    assert told(tvm_sched.compile(network, x, target="cortex-a76"))["verified"]
    with_phase(monkeypatch, "for_schedules", wrong_constant(0.25, 0.5))
    with pytest.raises(CheckFailed, match="operator `add`"):
        tvm_sched.compile(network, x, target="cortex-a76")


def test_what_is_joined_for_several_shapes_is_checked_together(network, x, monkeypatch):
    shapes, join = [(1, 3, 10, 10), (1, 3, 12, 12)], pipeline.join_shapes
    assert tvm_sched.compile(network, x, shapes=shapes).check() < 1e-5
    change = wrong_constant(0.25, 0.5)
    monkeypatch.setattr(pipeline, "join_shapes", lambda mods: replace(made := join(mods), mod=change(made.mod)))
    with pytest.raises(CheckFailed, match="the network for several shapes is wrong: its output 'output'"):
        tvm_sched.compile(network, x, shapes=shapes)


def test_a_batch_in_parts_is_checked_whole(monkeypatch):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()), torch.randn(8, 3, 96, 96)
    artifact = tvm_sched.compile(module, x)
    assert artifact.manifest["parts"] > 1 and told(artifact)["verified"]


@pytest.mark.parametrize(
    "blinded, why",
    [
        (lambda net: nn.init.zeros_(net.second.weight), "they are the same for different inputs"),
        (lambda net: (nn.init.zeros_(net.second.weight), nn.init.zeros_(net.second.bias)), "they are all zero"),
    ],
)
def test_weights_that_make_the_check_blind_are_told(network, x, blinded, why):
    with torch.no_grad():
        blinded(network)
    with pytest.warns(CheckWarning, match=why):
        artifact = tvm_sched.compile(network, x)
    assert told(artifact)["verified"] and told(artifact)["notes"][0].endswith(why)


def test_outputs_that_are_nan_in_pytorch_too_are_told():
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(-1 - x * x)

    with pytest.warns(CheckWarning, match="none of them is a finite number"):
        tvm_sched.compile(Root(), torch.randn(2, 16))


class Words(nn.Module):
    """Whole numbers in, several structures out, among them an index that any of equal numbers may have."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(8, 16)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.equal = nn.Linear(16, 4, bias=False)
        nn.init.ones_(self.equal.weight)

    def forward(self, words, mask):
        states, last = self.rnn(self.embedding(words) * mask[..., None])
        return {"states": states, "last": (last, None), "index": self.equal(last[0]).argmax(1), "mask": mask & True}


def test_whole_numbers_booleans_and_structures_are_checked():
    torch.manual_seed(0)
    words, mask = torch.randint(0, 8, (2, 5)), torch.rand(2, 5) < 0.5
    artifact = tvm_sched.compile(Words(), (words, mask))
    assert told(artifact)["verified"] and 0 < told(artifact)["error"] < 1e-5


class Picked(nn.Module):
    """Rows whose numbers are given as fractions, as the images of boxes are."""

    def forward(self, x, boxes):
        return x[boxes[:, 0].long()] + boxes[:, 1:]


def test_inputs_that_pytorch_stops_at_are_not_what_it_is_checked_on():
    boxes = torch.rand(40, 4)
    boxes[:, 1:] *= 100
    artifact = tvm_sched.compile(Picked(), (torch.randn(1, 3), boxes))
    assert told(artifact)["verified"] and artifact.manifest["inputs"][1]["range"] == [0, 1]
    assert artifact.check() < 1e-6


def test_a_module_of_another_origin_is_asked_itself(network, x):
    network.reference = lambda array: [np.zeros((1, 16), "float32")]
    with pytest.raises(CheckFailed, match=r"differs from the file's reference by .*no operator departs"):
        tvm_sched.compile(network, x)


def test_the_module_is_left_as_it_was(network, x):
    network.train()
    network.first.eval()
    before = x.clone()
    tvm_sched.compile(network, x)
    assert network.training and network.second.training and not network.first.training
    assert torch.equal(x, before)
