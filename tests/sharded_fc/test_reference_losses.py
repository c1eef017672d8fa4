"""The dense head's losses: what they are before training, and what no margin may depend on."""

import math

import pytest
import torch

from sharded_fc.margins import AdaFace, ArcFace, CosFace, MagFace, Margin, NormFace
from sharded_fc.reference import DenseHead, dense_loss
from tests.sharded_fc.dense_heads import CLASSES, DIM, SCALE, batch, close, draw, head
from tests.sharded_fc.margins.batches import EVERY

UNIT = [margin for margin in EVERY if margin.normalised]


@pytest.mark.parametrize(
    ("margin", "expected"), [(ArcFace(0.5), 44.34), (CosFace(0.4), 39.27)], ids=str
)
def test_the_first_loss_of_random_vectors_is_margin_plus_ln_c_plus_half_s_squared_over_d(
    margin: Margin, expected: float
):
    # The method sheet's simulation of 20,000 classes in 512 dimensions; its tolerance, half a unit.
    generator = torch.Generator().manual_seed(0)
    centre, embedding = (torch.randn(n, 512, generator=generator) for n in (20_000, 512))
    label = torch.randint(20_000, (512,), generator=generator)
    loss = dense_loss(embedding, centre, label, margin=margin, scale=64.0)
    assert loss.item() == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("margin", "expected"), [(ArcFace(0.5), 42.04), (CosFace(0.4), 36.96)])
def test_the_first_loss_at_cosines_of_zero_is_margin_plus_ln_c(margin: Margin, expected: float):
    centre = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(85_742, 2)
    embedding = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    loss = dense_loss(embedding, centre, torch.tensor([5]), margin=margin, scale=64.0)
    assert loss.item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("margin", UNIT, ids=str)
def test_turning_embeddings_and_centres_together_changes_no_loss(margin: Margin):
    embedding, label = batch()
    turn = torch.linalg.qr(draw(DIM, DIM, seed=9)).Q
    one, other = (
        DenseHead(draw(CLASSES, DIM) @ q, margin=margin, scale=SCALE, learning_rate=0.1)
        for q in (torch.eye(DIM).double(), turn)
    )
    loss, gradient = one.step(embedding, label)
    turned, of_turned = other.step(embedding @ turn, label)
    close(turned, loss)
    close(of_turned, gradient @ turn)
    close(other.centre, one.centre @ turn)


@pytest.mark.parametrize("margin", UNIT, ids=str)
def test_only_magface_and_adaface_see_how_long_an_embedding_is(margin: Margin):
    embedding, label = batch()
    loss, gradient = head(margin).step(embedding, label)
    longer, _ = head(margin).step(1.5 * embedding, label)
    along = (gradient * embedding).sum(1)
    if isinstance(margin, MagFace | AdaFace):
        assert not torch.isclose(longer, loss)
    else:
        close(longer, loss)
    if isinstance(margin, MagFace):
        assert (along.abs() > 1e-3).all()
    else:
        # The gradient's own size is about 0.1; lengths up to 60 multiply its roundings.
        assert along.abs().max() < 1e-13


def test_the_loss_of_one_certain_sample_vanishes():
    centre = torch.eye(3, dtype=torch.float64)
    loss = dense_loss(centre[:1], centre, torch.tensor([0]), margin=NormFace(), scale=64.0)
    assert loss.item() == pytest.approx(2 * math.exp(-64.0), rel=1e-9, abs=1e-15)
