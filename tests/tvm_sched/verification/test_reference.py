"""PyTorch is asked as the user would: in eval mode, in the network's structure, on inputs that it may not change."""

import numpy as np
import torch
from torch import nn

from tvm_sched.frontend import torch_export
from tvm_sched.verification.reference import Reference


def reference(network, *x):
    return Reference(network, torch_export.from_torch(network, x).signature)


def test_it_is_pytorchs_output_in_eval_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    x = torch.randn(2, 3, 4, 4)
    (made,) = reference(network, x)([x.numpy()])
    assert network.training and network[2].training  # as the user had it
    with torch.no_grad():
        np.testing.assert_array_equal(made, network.eval()(x).numpy())


class Two(nn.Module):
    def forward(self, x, pair):
        return {"sum": x + pair[0], "rest": (pair[1], None)}


def test_structures_are_flat_lists_of_tensors():
    x = torch.zeros(2, 3)
    inputs = [np.full((2, 3), value, "float32") for value in (1, 2, 5)]
    one, two = reference(Two(), x, (x + 1, x + 2))(inputs)
    assert (one == 3).all() and (two == 5).all()


def test_inputs_are_not_written_over():
    x = torch.tensor([[-1.0, 2.0]])
    (made,) = reference(nn.ReLU(inplace=True), x)([x.numpy()])
    assert made.tolist() == [[0, 2]] and x.tolist() == [[-1, 2]]


def test_bfloat16_goes_through_arrays():
    ask = reference(nn.ReLU(), torch.zeros(2, 3).bfloat16())
    x = torch_export.to_array(torch.tensor([[-1, 1.5, 3e38]] * 2, dtype=torch.bfloat16))
    (made,) = ask([x])
    assert made.dtype.name == "bfloat16" and np.array_equal(made, np.maximum(x, 0))


def test_double_precision_where_the_network_allows_it():
    torch.manual_seed(0)
    network, x = nn.Linear(64, 8), torch.randn(3, 64)
    (exact,) = reference(network, x).in_type([x.numpy()], torch.float64)
    assert exact.dtype == "float64" and network.weight.dtype is torch.float32
    np.testing.assert_allclose(
        exact,
        x.double().numpy() @ network.weight.detach().double().numpy().T + network.bias.detach().double().numpy(),
        rtol=1e-12,
    )


def test_no_double_precision_where_the_network_names_its_own():
    class Float(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x.float())

    x = torch.randn(3, 4)
    assert reference(Float(), x).in_type([x.numpy()], torch.float64) is None


def test_a_network_of_another_origin_answers_itself():
    network = nn.ReLU()
    network.reference = lambda x: (x + 1, None)
    x = torch.zeros(2)
    ask = reference(network, x)
    assert ask([x.numpy()])[0].tolist() == [1, 1] and ask.in_type([x.numpy()], torch.float64) is None
