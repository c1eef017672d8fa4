"""Rows that travel to a CUDA device and back, beside its computation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sharded_fc.tables.small import content, draw_rows, resident, run, same, stored

pytestmark = pytest.mark.gpu

LARGE = {
    "start": 0,
    "stop": 60_000,
    "embedding_dim": 256,
    "state_widths": {"momentum": 256, "square": 1},
}


@pytest.fixture(scope="module")
def device() -> torch.device:
    assert torch.cuda.is_available(), "make gpu-check needs a CUDA device"
    return torch.device("cuda", 0)


@pytest.mark.parametrize("kind", ["host", "mapped"])
def test_losses_and_rows_are_the_resident_ones_bit_for_bit(tmp_path: Path, device, kind):
    rng = np.random.default_rng(0)
    plan = [draw_rows(rng, 30_000, 60_000) for _ in range(20)]  # half of each step's are the next's
    reference, table = (
        resident(device=device, **LARGE),
        stored(tmp_path, kind, device=device, **LARGE),
    )
    skipped = (3, 8)
    assert list(run(table, plan, skipped=skipped)) == list(run(reference, plan, skipped=skipped))
    assert same(content(table), content(reference))
    table.close()
