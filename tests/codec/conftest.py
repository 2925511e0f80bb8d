"""What all tests of the codec share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Run the tiny convolutions on one thread: on a busy machine, waiting for a second one takes most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
