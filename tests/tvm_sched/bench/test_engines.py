"""The engines run the network they were given; rows compare them with the best dense one."""

import time

import numpy as np
import pytest
import torch

from tvm_sched.bench import engines
from tvm_sched.bench.engines import Engine, Network, compare


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
    return Network("tiny", module, torch.randn(2, 3, 8, 8), n=None, sparsity=0.0)


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_output_equals_the_module(network, name):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")
    engine = engines.REFERENCES[name](network, threads=1)
    with torch.inference_mode():
        expected = network.module(torch.from_numpy(x)).numpy()
    assert np.abs(engine.call(x) - expected).max() < 1e-5
    assert engine.file_bytes >= 4 * (8 * 3 * 9)


def test_rows_compare_with_the_best_dense_engine(network):
    slow, dense, sparse = compare(
        [sleeper(network, "slow", 20), sleeper(network, "dense", 10), sleeper(network, "sparse", 2, dense=False)],
        network.example_input.numpy(),
        seconds=0.3,
    )
    assert slow.ratio_to_best_dense == pytest.approx(0.5, rel=0.3)
    assert dense.ratio_to_best_dense == 1
    assert sparse.ratio_to_best_dense == pytest.approx(5, rel=0.4)
    assert (sparse.network, sparse.engine, sparse.batch, sparse.threads) == ("tiny", "sparse", 2, 1)


def test_a_sparse_engine_alone_has_no_ratio(network):
    (row,) = compare([sleeper(network, "sparse", 1, dense=False)], network.example_input.numpy(), seconds=0.05)
    assert row.ratio_to_best_dense is None


def sleeper(network: Network, name: str, ms: float, dense: bool = True) -> Engine:
    return Engine(name, network, 1, lambda _: time.sleep(ms / 1000), dense=dense)
