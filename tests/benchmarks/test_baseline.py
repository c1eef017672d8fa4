"""The baseline of the benchmarks computes what the dense reference does."""

from typing import Any

import pytest
import torch

from sharded_fc.margins import ArcFace
from sharded_fc.reference import DenseHead
from tests.benchmarks.baseline import PublicHead

OPTIONS: dict[str, Any] = {
    "scale": 16.0,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(40, 16, generator=generator)
    batches = [
        (torch.randn(8, 16, generator=generator), torch.randint(40, (8,), generator=generator))
        for _ in range(3)
    ]
    return centre, batches


@pytest.mark.parametrize(
    ("operands", "tolerance"),
    [
        # What float32 and bfloat16 operands (2^-9 each) lose in logits of up to 16, with room.
        (torch.float32, 2e-5),
        (torch.bfloat16, 0.1),
    ],
    ids=str,
)
def test_three_steps_equal_the_dense_reference_in_float64(drawn, operands, tolerance):
    centre, batches = drawn
    public = PublicHead(centre.clone(), margin_rad=0.5, operands=operands, **OPTIONS)
    margin = ArcFace(0.5, gradient="straight_through")
    truth = DenseHead(centre.double(), margin=margin, **OPTIONS)
    for embedding, label in batches:
        loss, gradient = public.step(embedding, label)
        true_loss, true_gradient = truth.step(embedding.double(), label)
        torch.testing.assert_close(loss.double(), true_loss, rtol=tolerance, atol=0)
        error = (gradient.double() - true_gradient).norm() / true_gradient.norm()
        assert error < tolerance
    moved = (truth.centre - centre.double()).norm()
    assert (public.centre.detach().double() - truth.centre).norm() < tolerance * moved
