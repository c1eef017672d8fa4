"""Losses and gradients of a sampled head against the full head's, over draws of one problem."""

import pytest

from sharded_fc.sampling import Sampling
from tests.sharded_fc.sampling.bias import Problem
from tests.sharded_fc.sampling.clusters import clustered_centres

DRAWS = 60


def measured(cosine, *, scale, **manner):
    """2,000 classes of width 128, ten each at that cosine, a rate of 0.2."""
    problem = Problem.of(clustered_centres(200, 10, dim=128, cosine=cosine), batch=8, scale=scale)
    return problem.measure(Sampling(rate=0.2, **manner), draws=DRAWS)


@pytest.fixture(scope="module")
def random():
    return {c: measured(0.0, scale=16.0, correction=c) for c in ("none", "logq")}


@pytest.fixture(scope="module")
def clustered():
    return {
        (c, h): measured(0.5, scale=32.0, correction=c, hard_share=h)
        for c in ("none", "logq")
        for h in (0.0, 0.3)
    }


def test_on_random_centres_the_correction_removes_the_bias_of_losses_and_gradients(random):
    none, logq = random["none"], random["logq"]
    # The mean of so many draws lies within five of its standard errors.
    assert abs(logq.loss_bias) < 5 * logq.loss_spread / DRAWS**0.5
    assert logq.gradient_bias < 2 * logq.gradient_spread / DRAWS**0.5
    assert abs(none.loss_bias) > 10 * abs(logq.loss_bias)
    assert none.gradient_bias > 2 * logq.gradient_bias


def test_on_clustered_centres_the_correction_hurts_and_hard_negatives_repair_it(clustered):
    drawn, mined = clustered["logq", 0.0], clustered["logq", 0.3]
    assert drawn.loss_spread > clustered["none", 0.0].loss_spread
    assert drawn.loss_bias < -0.5
    # Draws are seeded; measured were a sixteenth, 0.28, 0.42 and 0.34.
    assert abs(mined.loss_bias) < abs(drawn.loss_bias) / 5
    assert mined.loss_spread < drawn.loss_spread / 2
    assert mined.gradient_spread < drawn.gradient_spread / 2
    assert mined.gradient_bias < drawn.gradient_bias / 2
