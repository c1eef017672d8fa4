"""Fixtures of the tests of export."""

import pytest
import torch


@pytest.fixture
def seeded() -> None:
    """Torch's generator from a known place."""
    torch.manual_seed(0)
