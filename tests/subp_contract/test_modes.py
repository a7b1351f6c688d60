"""Evaluation mode for a while."""

import pytest
from torch import nn

from subp_contract.modes import in_eval_mode


@pytest.fixture
def network() -> nn.Module:
    """A training network whose batch norm is frozen."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout()))
    network[1].eval()
    return network


def test_all_of_a_module_is_in_evaluation_mode_within(network):
    with in_eval_mode(network) as same:
        assert same is network
        assert not any(each.training for each in network.modules())


def test_each_submodule_gets_its_own_mode_back(network):
    with in_eval_mode(network):
        pass
    assert [each.training for each in network.modules()] == [True, True, False, True, True]


def test_modes_come_back_after_an_error_too(network):
    with pytest.raises(RuntimeError), in_eval_mode(network):
        raise RuntimeError
    assert network.training and not network[1].training
