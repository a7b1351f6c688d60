"""Published checkpoints: the shape of their files, made here with random weights."""

import pytest
import torch
from click.testing import CliRunner

from subp import models
from subp.cli.convert import command
from subp.training import checkpoint, published
from subp_contract.errors import UserError


def call(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def published_state(name, n=16, of_blocks=False, rename=lambda key: key):
    """(state dict with masks, folded one under the network's own names)"""
    torch.manual_seed(0)
    state, folded = {}, {}
    for key, tensor in models.create(name, 12).state_dict().items():
        state[rename(key)] = folded[key] = tensor
        outputs = tensor.shape[0] if tensor.ndim == 4 else 0
        if tensor.ndim == 4 and tensor.shape[1] > 3 and outputs % n == 0:
            mask = (torch.rand(outputs // n, tensor.shape[1]) < 0.4).float()
            dense = mask.repeat_interleave(n, 0)[:, :, None, None].expand(tensor.shape).contiguous()
            state[rename(key).replace(".weight", ".mask")] = mask if of_blocks else dense
            folded[key] = tensor * dense
    return state, folded


def holds(path, folded):
    loaded = checkpoint.load_model(path)[0].state_dict()
    return all(torch.equal(tensor, loaded[key]) for key, tensor in folded.items() if "tracked" not in key)


@pytest.mark.parametrize("of_blocks, prefix, nested", [(False, "", False), (True, "module.", True)])
def test_resnets_of_torchvisions_naming_are_folded(tmp_path, of_blocks, prefix, nested):
    state, folded = published_state("resnet18", of_blocks=of_blocks, rename=lambda key: prefix + key)
    torch.save({"epoch": 3, "best_acc1": 69.9, "state_dict": state} if nested else state, tmp_path / "r18.pth.tar")
    result = call(tmp_path / "r18.pth.tar", "-o", tmp_path / "r18.safetensors", "--size", 32)
    assert "resnet18, 12 classes, blocks of 1x16" in result.output
    assert holds(tmp_path / "r18.safetensors", folded)


def flat(key):
    """features.3.1.0.weight -> features.3.conv_pw.weight: layers by other names in the same order."""
    parts = {".0.0.": ".conv_dw.", ".0.1.": ".bn_dw.", ".1.0.": ".conv_pw.", ".1.1.": ".bn_pw."}
    for ours, theirs in parts.items():
        if key.startswith("features") and ours in key:
            return key.replace(ours, theirs)
    return key


def test_a_mobilenet_of_other_layer_names_is_recognised_by_its_tensors(tmp_path):
    state, folded = published_state("mobilenet_v1", n=32, rename=flat)
    torch.save(state, tmp_path / "m.pth")
    result = call(tmp_path / "m.pth", "-o", tmp_path / "m.safetensors", "--size", 32)
    assert "mobilenet_v1, 12 classes, blocks of 1x32" in result.output
    assert holds(tmp_path / "m.safetensors", folded)


def test_files_that_are_none_are_told(tmp_path):
    torch.save({"a.weight": torch.zeros(4, 3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no network among resnet18, .*: its tensors begin with a.weight \[4, 3\]"):
        call(tmp_path / "other.pth", "-o", tmp_path / "o.safetensors")
    with pytest.raises(UserError, match="no network among mobilenet_v1:"):
        call(tmp_path / "other.pth", "--model", "mobilenet_v1", "-o", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize(
    "state, message",
    [
        ({"a.mask": torch.ones(2, 2)}, "a.mask is a mask without a weight"),
        ({"a.weight": torch.ones(6, 4), "a.mask": torch.ones(4, 4)}, r"a.mask is \[4, 4\], which does not fit"),
        ({"a.weight": torch.ones(6, 4), "a.mask": torch.ones(6, 3)}, r"a.mask is \[6, 3\], which does not fit"),
    ],
)
def test_masks_that_fit_no_weight_are_told(state, message):
    with pytest.raises(UserError, match=message):
        published.fold(state)


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"a.weight": torch.ones(2, 2)}, "args": Code()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="holds objects besides tensors, which are not loaded"):
        call(tmp_path / "evil.pth", "-o", tmp_path / "o.safetensors")
    assert "executed" not in capsys.readouterr().out
