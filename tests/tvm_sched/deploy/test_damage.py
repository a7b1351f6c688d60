"""A compiled file whose bytes changed, and a network whose weights are no numbers, are refused in one sentence."""

import shutil

import pytest
import torch
from elftools.elf.elffile import ELFFile
from torch import nn

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.deploy import toolchain


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("saved") / "net.so"
    tvm_sched.compile(nn.Conv2d(3, 16, 3).eval(), torch.randn(1, 3, 8, 8), threads=1).save(path)
    return path


@pytest.mark.parametrize("section", [".text", ".rodata", toolchain.SECTION, toolchain.CHECKSUM])
def test_a_changed_byte_is_refused_wherever_it_is(saved, tmp_path, section):
    copy = shutil.copy(saved, tmp_path / "copy.so")
    with open(copy, "r+b") as file:
        found = ELFFile(file).get_section_by_name(section)
        data = bytearray(found.data())
        at = data.index(b'"why": "') + 8 if section == toolchain.SECTION else len(data) // 2
        data[at] ^= 1
        file.seek(found["sh_offset"])
        file.write(data)
    with pytest.raises(UserError, match="its checksum is wrong") as caught:
        tvm_sched.load(copy)
    assert "\n" not in str(caught.value)


def test_a_whole_file_and_its_copy_are_taken(saved, tmp_path):
    for path in (saved, shutil.copy(saved, tmp_path / "copy.so")):
        assert tvm_sched.load(path).check() < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("exported", [False, True])
def test_weights_that_are_not_finite_are_told_by_layer(value, exported):
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)).eval()
    network[2].weight.data[3, 5] = value
    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(UserError, match=r"weights of layer 2 \(weight\) are not finite: was") as caught:
        tvm_sched.compile(torch.export.export(network, (x,)) if exported else network, x)
    assert "\n" not in str(caught.value)


def test_statistics_that_are_nan_are_told_by_layer():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)).eval()
    network[1].running_var[0] = float("nan")
    network[1].running_mean[0] = float("nan")
    with pytest.raises(UserError, match=r"layer 1 \(running_mean\) are not finite, nor are those of 1 other"):
        tvm_sched.compile(network, torch.randn(1, 3, 4, 4))


def test_infinities_in_a_mask_are_allowed():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

        def forward(self, x):
            return (x + self.mask).softmax(-1)

    x = torch.randn(1, 4, 4)
    artifact = tvm_sched.compile(Masked().eval(), x)
    torch.testing.assert_close(torch.from_numpy(artifact(x.numpy())), Masked()(x), rtol=0, atol=1e-6)
