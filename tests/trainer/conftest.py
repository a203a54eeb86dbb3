# SPDX-License-Identifier: Apache-2.0
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors: threads that wait for each other on busy cores cost more than they bring."""
    torch.set_num_threads(1)
