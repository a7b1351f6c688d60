"""Wrong arguments of the libraries' own functions: one class to catch, one sentence, nothing else on the terminal."""

import pytest
import torch
from torch import nn

import subp
import tvm_sched
from subp_contract.distribution import VERSION


class Fails(nn.Module):
    def forward(self, x):
        return x.no_such_thing


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Flatten(), nn.Linear(32 * 4, 4)).eval()


X = torch.ones(1, 3, 2, 2)


@pytest.fixture(scope="module")
def artifact():
    return tvm_sched.compile(layers(), X, threads=1)


def sparsifier(**others) -> subp.Sparsifier:
    return subp.Sparsifier(layers(), **{"n": 16, "epochs": 5} | others)


WRONG = {
    "an array for a tensor": (lambda: tvm_sched.compile(layers(), X.numpy()), r"give torch.from_numpy\(x\)"),
    "no network": (lambda: tvm_sched.compile(5, X), "the network must be a torch.nn.Module.*, not 5"),
    "another shape": (lambda: tvm_sched.compile(layers(), torch.ones(1, 4, 2, 2)), "an input of .1, 4, 2, 2., nor can"),
    "a network that fails": (lambda: tvm_sched.compile(Fails(), X), "'Tensor' object has no attribute 'no_such_thing'"),
    "keywords in a list": (lambda: tvm_sched.compile(layers(), X, [X]), "example_kwargs must be a dictionary by name"),
    "a target's number": (lambda: tvm_sched.compile(layers(), X, target=5), "target must be a name"),
    "threads in words": (lambda: tvm_sched.compile(layers(), X, threads="two"), "threads must be a whole number"),
    "half a thread": (lambda: tvm_sched.compile(layers(), X, threads=1.5), "threads must be a whole number, not 1.5"),
    "records' number": (lambda: tvm_sched.compile(layers(), X, records=5), "records must be a path, not 5"),
    "shapes' number": (lambda: tvm_sched.compile(layers(), X, shapes=5), "shapes must be a list of shapes"),
    "calibration's number": (
        lambda: tvm_sched.compile(layers(), X, precision="int8", calibration=5),
        "calibration must be batches",
    ),
    "loading a number": (lambda: tvm_sched.load(5), "the file to load must be a path, not 5"),
    "tuning for ever": (
        lambda: tvm_sched.tune(layers(), X, records="nowhere", minutes=float("nan")),
        "minutes must be a finite number above 0, not nan",
    ),
    "tuning nothing": (lambda: tvm_sched.tune(layers(), X, records="nowhere", trials=0), "trials must be .* from 1"),
    "quantising a number": (lambda: tvm_sched.quantize(5, [X]), "the network must be a torch.nn.Module"),
    "an epoch too far": (lambda: sparsifier().step(5), "epoch must be a whole number from 0 to 4, not 5"),
    "an epoch before": (lambda: sparsifier().step(-1), "epoch must be a whole number from 0 to 4, not -1"),
    "half an epoch": (lambda: sparsifier().step(0.5), "epoch must be a whole number from 0 to 4, not 0.5"),
    "pruning a number": (lambda: subp.Sparsifier(5, epochs=3), "model must be a torch.nn.Module, not 5"),
    "blocks in words": (lambda: sparsifier(n="16"), "n must be a whole number, not '16'"),
    "sparsity in words": (lambda: sparsifier(sparsity="high"), "sparsity must be a number, not 'high'"),
    "epochs in words": (lambda: sparsifier(epochs="5"), "epochs must be a whole number, not '5'"),
    "a shape too small": (
        lambda: sparsifier(target_macs=0.5, input_shape=(4, 2, 2)),
        "does not take an input of .4, 2",
    ),
    "a number for a shape": (lambda: sparsifier(target_macs=0.5, input_shape=5), "input_shape must be a shape"),
    "no state": (lambda: sparsifier().load_state_dict({}), "no saved state of a Sparsifier"),
    "folding a number": (lambda: subp.fold(5), "model must be a torch.nn.Module, not 5"),
    "looking into a number": (lambda: subp.inspect(5), "model must be a torch.nn.Module, not 5"),
    "a checkpoint's number": (lambda: subp.load_model(5), "the checkpoint must be a path, not 5"),
}


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_one_sentence(what, capfd):
    call, sentence = WRONG[what]
    with pytest.raises(subp.Error, match=sentence) as error:
        call()
    assert "\n" not in str(error.value) and "FakeTensor" not in str(error.value)
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")


def test_an_artifact_is_saved_to_a_file_alone(artifact, tmp_path):
    with pytest.raises(tvm_sched.Error, match="is a folder: save to a file"):
        artifact.save(tmp_path)
    with pytest.raises(tvm_sched.Error, match=r"there is no folder .*nowhere: save to a file"):
        artifact.save(tmp_path / "nowhere" / "net.so")
    with pytest.raises(tvm_sched.Error, match="the inputs must be a list of tensors, not 5"):
        artifact.run_flat(5)
    assert list(tmp_path.iterdir()) == []


def test_one_class_and_one_version_for_both():
    assert subp.Error is tvm_sched.Error and issubclass(tvm_sched.CheckFailed, subp.Error)
    assert subp.__version__ == tvm_sched.__version__ == VERSION


def test_what_they_are_shows(artifact):
    assert repr(artifact) == (
        "<Artifact for host, float32, 1 thread: 'input', [1, 3, 2, 2] of float32; 0 of 3 layers block-sparse>"
    )
    made = sparsifier()
    made.step(2)
    assert repr(made) == "<Sparsifier: subp, n = 16, sparsity = 0.75, 5 epochs, 1 layers, epoch 2>"
