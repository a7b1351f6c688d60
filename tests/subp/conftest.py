import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Bits of results depend on the number of threads; and the tests run side by side."""
    torch.set_num_threads(1)
