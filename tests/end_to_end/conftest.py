"""What emulated tests share."""

import arm64_root
import pytest


@pytest.fixture(scope="session")
def debian_11():
    """The command under which a program runs as on an arm64 board with Debian 11; without it the test is skipped, and
    says why.
    """
    try:
        return arm64_root.emulated(arm64_root.root())
    except arm64_root.Unavailable as reason:
        pytest.skip(str(reason))
