"""A runner outlives what kernels do to its process; kernels over columns are measured on columns."""

import subprocess

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import tvm_sched
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import columns_conv2d, kernel_of
from tvm_sched.pipeline import Compilation
from tvm_sched.tuning import measuring, tiles, timing

SIGNATURE = "int __tvm_ffi_main(void *self, void *args, int count, void *result)"
KERNELS = {"hangs": "for (;;);", "crashes": "abort();", "works": "return 0;"}


@pytest.fixture
def job(tmp_path):
    """A kernel of KERNELS to measure."""
    timing.save_arguments(tmp_path / "arguments.npz", [np.zeros((4, 4), "float32")] * 2)

    def made(name: str) -> measuring.Job:
        source, library = f"#include <stdlib.h>\n{SIGNATURE} {{ {KERNELS[name]} }}", tmp_path / f"{name}.so"
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=source.encode(), check=True)
        return measuring.Job(str(library), str(tmp_path / "arguments.npz"))

    return made


def test_a_kernel_that_hangs_or_crashes_ends_its_process_and_no_more(job, monkeypatch):
    with measuring.Here(threads=1) as runner:
        assert len(runner.submit(job("works")).result().run_secs) == timing.TIMES["repeat"]
    monkeypatch.setattr(measuring, "TIMEOUT_S", 5)
    with measuring.Here(threads=1) as runner:
        assert runner.submit(job("hangs")).result().error_msg == "gave no result in 5 s"
        assert runner.submit(job("crashes")).result().error_msg
    with measuring.Here(threads=1) as runner:
        assert runner.submit(job("works")).result().error_msg is None


def test_weights_alone_are_flushed(job, monkeypatch):
    """Neither the input nor the memory of the result, which a network leaves in cache."""
    flushed = []
    monkeypatch.setattr(timing.tvm, "get_global_func", lambda name: lambda first, *others: flushed.append(others))
    arrays = [np.full(1, number, "float32") for number in range(4)]
    module = timing.tvm.runtime.load_module(job("works").library)
    assert len(timing.seconds_of(module, timing.tvm.cpu(), arrays)) == timing.TIMES["repeat"]
    assert len(flushed) >= timing.TIMES["repeat"]
    assert {tuple(float(each.numpy()[0]) for each in others) for others in flushed} == {(1.0, 2.0)}


@pytest.fixture(scope="module")
def patterned():
    """A layer whose kernels share kept positions, 5 % of all: it runs over columns."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64, 3, 3), "float32")
    kept = np.stack([rng.permutation(576) < 29 for _ in range(4)]).repeat(16, axis=0)
    layer = nn.Conv2d(64, 64, 3, padding=1)
    layer.weight.data = torch.from_numpy(weight * kept.reshape(weight.shape))
    return nn.Sequential(layer, nn.ReLU()).eval(), torch.randn(1, 64, 14, 14)


def test_columns_are_places_that_a_pixel_sees(patterned):
    (task,) = tiles.tasks_of(pipeline.fused(torch_export.from_torch(*patterned), Compilation(targets.host())))
    assert kernel_of(task.func) is columns_conv2d.KERNEL
    places = next(array for array in measuring.arguments(task.func) if array.dtype == np.int32)
    assert places.shape == (4, 29, 3)
    assert places.min() >= 0 and (places < (3, 3, 64)).all()
    assert all(len({tuple(place) for place in row}) == 29 for row in places)


def test_kernels_over_columns_are_tuned_and_compute_the_same(patterned, tmp_path):
    module, x = patterned
    summary = tvm_sched.tune(module, x, threads=1, records=tmp_path, trials=3)
    assert summary.failed == 0 and [task.measured for task in summary.tasks] == [3]
    artifact = tvm_sched.compile(module, x, threads=1, records=tmp_path)
    (layer,) = artifact.explain()
    assert (layer.kernel, layer.schedule) == ("columns 1x16", "record")
    np.testing.assert_allclose(artifact(x.numpy()), module(x).detach().numpy(), rtol=1e-5, atol=1e-4)


def test_arguments_of_types_that_numpys_files_lack_are_kept_too(tmp_path):
    arrays = [np.arange(6, dtype="float32"), np.array([[1.5, -2], [0, 3]], ml_dtypes.bfloat16), np.ones(2, "int32")]
    timing.save_arguments(tmp_path / "a.npz", [*arrays, *arrays, *arrays, *arrays])
    loaded = timing.load_arguments(tmp_path / "a.npz")
    assert [array.dtype for array in loaded] == 4 * [array.dtype for array in arrays]
    assert all(map(np.array_equal, loaded, 4 * arrays))
