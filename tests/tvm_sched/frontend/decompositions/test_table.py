"""Decomposition by a table that is sorted out once gives what PyTorch's own `run_decompositions` does."""

import torch
from torch import nn
from torch.nn import functional as F

from tvm_sched.frontend import aten, torch_export
from tvm_sched.frontend.decompositions import table


class Composed(nn.Module):
    """Operators that are composed of others: some kept, some of PyTorch's decompositions, some of ours, and the rest
    what they are composed of.
    """

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.InstanceNorm1d(4)

    def forward(self, x):
        attended = self.attention(x, x, x)[0]
        y = self.recurrent(self.norm(F.scaled_dot_product_attention(attended, x, x)))[0]
        y = F.interpolate(y[None], scale_factor=2.0, mode="bilinear") + F.max_pool2d(F.pad(y[None], (4, 4, 2, 2)), 1)
        return torch.einsum("bcij,kj->bcik", y.softmax(-1), y[0, 0]).flatten(1), F.one_hot(y.argmax(-1), 16)


def test_the_program_is_that_of_run_decompositions():
    kept = frozenset(aten.CONVERTERS)
    program = torch_export.export(Composed(), torch.randn(2, 4, 8))
    ours = table.run(program, kept).graph_module.print_readable(print_output=False)
    assert ours == program.run_decompositions(table.table_of(kept)).graph_module.print_readable(print_output=False)
    assert "softmax" in ours and "upsample_bilinear2d.vec" in ours and "aten.gru" not in ours


def test_operators_that_a_library_registers_later_are_sorted_in():
    kept = frozenset(aten.CONVERTERS)
    before = table.composite_operators()
    table.run(torch_export.export(nn.ReLU(), torch.randn(2)), kept)
    library = torch.library.Library("table_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x + x, "CompositeImplicitAutograd")
    assert table.composite_operators() - before == {"table_test::twice"}

    class Twice(nn.Module):
        def forward(self, x):
            return torch.ops.table_test.twice(x)

    program = table.decomposed(torch_export.export(Twice(), torch.randn(2)), kept)
    assert "aten.add" in program.graph_module.print_readable(print_output=False)
    library._destroy()
