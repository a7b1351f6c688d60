"""Layers that nobody chose, in forms of every kernel, are right to rounding; `scripts/check_kernels.py` draws more."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from random_layers import Problem, networks, require_right

# One channel in and out: what a linear layer shares with a depthwise one, and a vector of scales with a number.
ONE = dict.fromkeys(("batch", "channels", "outputs", "groups"), 1) | {"bias": False, "form": 0, "seed": 20}
ONE |= dict.fromkeys(("kernel", "stride", "dilation"), (1, 1))
SINGLE = Problem(**ONE, image=None, padding=(0, 0), n=4, density=1.0, behind="none")


@pytest.mark.parametrize("word, examples", [("float32", 2), ("stored", 1), ("int8", 2)])
def test_random_layers_are_right(word, examples):
    require_right([SINGLE], word)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(networks())
    def check(problems):
        require_right(problems, word)

    check()
