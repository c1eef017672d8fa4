"""Fixtures that more than one of the trainer's tests use."""

from pathlib import Path

import pytest

from tests.trainer.toy_run import save_steps


@pytest.fixture(scope="module")
def two_checkpoints(rank_pools, tmp_path_factory) -> Path:
    """Steps 3 and 6 of a toy on two ranks."""
    folder = tmp_path_factory.mktemp("checkpoints")
    rank_pools(2).run(save_steps, folder, [3, 6], 3)
    return folder
