"""`roi_align` against torchvision's own definition in Python."""

import inspect

import pytest
import torch
from together import require_pytorchs

from subp.common.vision import import_torchvision
from subp_contract.errors import UserError
from tvm_sched.frontend.decompositions.sampling import roi_align

import_torchvision()
X = torch.randn(2, 3, 12, 15, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[0, 1.0, 2.0, 9.0, 10.0], [1, 0.0, 0.0, 14.9, 11.9], [1, 5.2, 3.1, 5.3, 4.0], [0, 0.2, 4, 2, 5]])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("ratio", "scale", "size"), [(2, 1.0, (3, 4)), (1, 0.5, (2, 2)), (3, 0.25, (7, 1))])
def test_it_is_torchvisions(ratio, scale, size, aligned):
    from torchvision.ops.roi_align import _roi_align

    as_written = inspect.unwrap(_roi_align)  # without torch.compile, which takes a minute of CPU
    wanted = as_written(X, BOXES, scale, *size, ratio, aligned)
    torch.testing.assert_close(roi_align(X, BOXES, scale, *size, ratio, aligned), wanted, rtol=0, atol=1e-5)


def test_samples_beyond_one_pixel_outside_count_nothing():
    boxes = torch.tensor([[0, -8.0, -8.0, -4.0, -4.0], [0, 20.0, 20.0, 24.0, 24.0]])
    assert not roi_align(X, boxes, 1.0, 2, 2, 2, True).any()


def test_it_compiles():
    require_pytorchs({"roi": lambda x, boxes: roi_align(x, boxes, 0.5, 3, 3, 2, True)}, X, BOXES)


def test_a_number_of_samples_that_depends_on_the_boxes_is_refused():
    with pytest.raises(UserError, match="sampling_ratio"):
        roi_align(X, BOXES, 1.0, 2, 2, -1, False)
