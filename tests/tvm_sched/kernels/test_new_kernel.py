"""A kernel of one's own, from the compute to a tuned network, with nothing of the package changed."""

import numpy as np
import pytest
import torch
from torch import nn
from tvm import te

import tvm_sched
from tvm_sched.kernels import KERNELS, register
from tvm_sched.kernels.base import Form, Kernel, fusable_call
from tvm_sched.kernels.fusion import find_block, finish, merge_epilogue


class VectorLinear(Kernel):
    """y[r, o] = sum_k x[r, k] * weight[k, o], lanes over outputs. Problem: (rows, outputs); tile: lanes."""

    name = "vector_linear"

    def forms(self, layer, target):
        if layer.linear and layer.out_channels % target.lanes == 0:
            yield Form(self, layer, (layer.image[2], layer.out_channels), None, "vectors", cycles=1.0, rank=0)

    def pack(self, form):
        return [form.layer.weight[:, :, 0, 0].T]

    def call(self, builder, x, weights, form, marks):
        def compute(x, weight):
            k = te.reduce_axis((0, weight.shape[0]), "k")
            shape = (x.shape[0], weight.shape[1])
            return te.compute(shape, lambda r, o: te.sum(x[r, k] * weight[k, o], axis=k), self.name, attrs=marks)

        return fusable_call(builder, self.name, compute, x, *weights)

    def problem(self, sch):
        return tuple(int(extent) for extent in sch.get(find_block(sch, self.name)).writes[0].source.shape)

    def tiles(self, problem, target, most=1):
        return [lanes for lanes in (target.lanes, 2 * target.lanes) if problem[1] % lanes == 0]

    def cycles(self, problem, tile, target, fma_cycles=None):
        return float(np.prod(problem))

    def schedule(self, sch, tile, target):
        block = find_block(sch, self.name)
        epilogue = merge_epilogue(sch, block)
        vectors, lane = sch.split(sch.get_loops(epilogue)[-1], [None, tile])
        sch.vectorize(lane)
        sch.compute_at(block, vectors, preserve_unit_loops=True)
        *_, lane, k = sch.get_loops(block)
        sch.reorder(k, lane)
        sch.vectorize(lane)
        sch.decompose_reduction(block, k)
        finish(sch, target)


@pytest.fixture
def listed():
    register(VectorLinear())
    yield
    KERNELS.pop()


def test_a_kernel_that_is_listed_is_chosen_compiled_and_tuned(listed, tmp_path):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 5)).eval(), torch.randn(3, 24)
    summary = tvm_sched.tune(network, x, threads=1, records=tmp_path, trials=4)
    assert summary.failed == 0 and "vector_linear" in " ".join(each.task.name for each in summary.tasks)
    artifact = tvm_sched.compile(network, x, threads=1, records=tmp_path)
    first, last = artifact.explain()
    assert (first.kernel, first.why, first.schedule) == ("vectors", "dense: this kernel has no blocks", "record")
    assert last.kernel.startswith("direct")
    np.testing.assert_allclose(artifact(x.numpy()), network(x).detach().numpy(), rtol=1e-5, atol=1e-5)
