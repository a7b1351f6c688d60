"""What counts as agreeing with PyTorch."""

import numpy as np
import pytest

from subp.deployment.checks import check
from subp_contract.errors import CheckFailed


def test_the_error_is_the_largest_absolute_difference():
    assert check("stage", np.float32([1, 2]), np.float32([1, 2.0005])) == pytest.approx(5e-4, rel=1e-3)


def test_the_tolerance_grows_with_outputs_beyond_unit_scale():
    assert check("stage", np.float32([100.05]), np.float32([100])) == pytest.approx(0.05, rel=1e-3)
    with pytest.raises(CheckFailed, match=r"a stage differs from PyTorch by 5.00e-02"):
        check("a stage", np.float32([1.05]), np.float32([1]))


@pytest.mark.parametrize("output", [np.float32([np.nan, 1]), np.float32([1]), np.float32([np.inf, 1])])
def test_numbers_that_are_none_and_other_shapes_fail(output):
    with pytest.raises(CheckFailed):
        check("stage", output, np.float32([1, 1]))
