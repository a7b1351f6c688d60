"""Options refuse nonsense in a sentence, before anything is loaded or measured."""

import pytest

from subp import cli
from subp.pruning.sparsifier import Sparsifier
from subp.training.config import Config
from subp_contract.errors import Error
from tvm_sched import runtime
from tvm_sched.deploy import toolchain

NONSENSE = [
    ("tune resnet18 --records r --minutes nan", "nan is not a finite number"),
    ("tune resnet18 --records r --minutes inf", "inf is not a finite number"),
    ("tune resnet18 --records r --wait nan", "nan is not a finite number"),
    ("bench --suite quick --seconds inf", "inf is not a finite number"),
    ("bench --suite quick --until-quiet nan", "nan is not a finite number"),
    ("calibrate --seconds nan", "nan is not a finite number"),
    ("advise resnet18 --ghz -1", "-1.0 is not in the range x>0"),
    ("advise resnet18 --picture p.jpg", "p.jpg must end in .png"),
    ("compile resnet18 -o o.txt", "o.txt must end in .so or .tar"),
    ("compile resnet18 -o o.so --size 100000", "100000 is not in the range 1<=x<=16384"),
    ("compile resnet18 -o o.so --batch 1000000", "1000000 is not in the range 1<=x<=65536"),
    ("compile resnet18 -o o.so --seed -1", "-1 is not in the range 0<=x<="),
    ("compile resnet18 -o o.so --seed 9999999999999999999", "9999999999999999999 is not in the range 0<=x<="),
    ("compile resnet18 -o o.so --cc true", "true wrote no "),
    ("export resnet18 -o o.txt", "o.txt must end in .onnx or .pt2"),
    ("quantize resnet18 --calibrate digits -o o.onnx", "o.onnx must end in .pt2"),
    ("quantize resnet18 --calibrate digits -o o.pt2 --draw -1", "-1 is not in the range 0<=x<="),
    ("train digits --size 100000", "100000 is not in the range 1<=x<=16384"),
    ("train digits --epochs 1000000000000", "epochs = 1000000000000 is more than 1,000,000"),
    ("train digits --workers 100000", "workers = 100000 is more than 1,024"),
    ("train digits --threads 100000", "100000 is not in the range 1<=x<=1024"),
    ("evaluate resnet18 digits --threads 0", "0 is not in the range 1<=x<=1024"),
    ("train digits --seed -1", "-1 is not in the range 0<=x<="),
]


@pytest.mark.parametrize(("line", "words"), NONSENSE)
def test_an_option_refuses_nonsense(line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.exit_code(line.split()) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_warm_up_is_within_the_epochs():
    with pytest.raises(Error, match="warmup_epochs = 3: there are only 2 epochs"):
        Config(epochs=2, warmup_epochs=3)


@pytest.mark.parametrize(
    ("target", "words"), [({"target_macs": 1e12}, "multiply-acc"), ({"target_weights": 1e9}, "weig")]
)
def test_a_target_is_within_the_network(target, words):
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1))
    with pytest.raises(Error, match=f"{words}.*the whole network has .*, ask for fewer"):
        Sparsifier(model, n=4, epochs=2, input_shape=(3, 4, 4), **target)


@pytest.mark.parametrize("told", ["abc", "0", "-1", ""])
def test_a_number_of_threads_in_the_environment_is_a_number(told, monkeypatch):
    monkeypatch.setenv("TVM_NUM_THREADS", told)
    with pytest.raises(Error, match=f"TVM_NUM_THREADS is '{told}' in the environment: make it a number from 1"):
        runtime.most_threads()


def test_a_command_that_links_nothing_is_told(tmp_path):
    with pytest.raises(Error, match=r"true wrote no .*net.so: is it a compiler\?"):
        toolchain.link(str(tmp_path / "net.so"), [], ["true"], b"{}")
