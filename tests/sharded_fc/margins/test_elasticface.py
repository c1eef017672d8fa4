"""ElasticFace: whose margin is drawn from what, and which of the draws goes to whom."""

import pytest
import torch

from sharded_fc.margins import CosFace, ElasticArcFace, ElasticCosFace
from tests.sharded_fc.margins.batches import adjust, samples


def margins_of(margin: ElasticCosFace, cosine: list[float], **changes) -> torch.Tensor:
    """What was subtracted from each cosine."""
    batch = samples(cosine, **changes)
    return batch.cosine - adjust(margin, batch).value


def test_the_smallest_margin_goes_to_the_largest_cosine():
    # The released code would give ranks [2, 3, 1] here: a permutation's inverse.
    cosine = [0.1, 0.9, 0.5]
    plus = ElasticCosFace(plus=True)
    drawn = margins_of(ElasticCosFace(), cosine).sort().values
    found = margins_of(plus, cosine)
    torch.testing.assert_close(found, drawn[[2, 0, 1]], rtol=0.0, atol=1e-15)


def test_equal_cosines_are_ranked_by_their_place():
    found = margins_of(ElasticCosFace(plus=True), [0.5] * 6)
    assert (found.diff() > 0).all()


def test_samples_without_a_class_take_no_rank():
    cosine = [0.1, 0.99, 0.9, 0.5]
    labelled = [True, False, True, True]
    drawn = margins_of(ElasticCosFace(), cosine)[torch.tensor(labelled)].sort().values
    found = margins_of(ElasticCosFace(plus=True), cosine, labelled=labelled)
    torch.testing.assert_close(found[[2, 3, 0]], drawn, rtol=0.0, atol=1e-15)


def test_draws_depend_on_seed_step_and_place_and_on_nothing_else():
    cosine = [0.1, 0.9, 0.5, 0.2]
    drawn = margins_of(ElasticCosFace(), cosine, step=7, seed=3)
    shorter = margins_of(ElasticCosFace(), cosine[:3], step=7, seed=3)
    assert torch.equal(drawn[:3], shorter)
    for step, seed in ((8, 3), (7, 4)):
        other = margins_of(ElasticCosFace(), cosine, step=step, seed=seed)
        assert not torch.isclose(drawn, other).any()


def test_draws_have_the_mean_and_deviation_asked_for():
    count = 100_000
    drawn = margins_of(ElasticCosFace(0.35, deviation=0.05), [0.0] * count)
    # Five standard errors of either estimate.
    assert drawn.mean().item() == pytest.approx(0.35, abs=5 * 0.05 / count**0.5)
    assert drawn.std().item() == pytest.approx(0.05, abs=5 * 0.05 / (2 * count) ** 0.5)


def test_without_deviation_it_is_cosface():
    batch = samples([0.1, -0.7])
    found = adjust(ElasticCosFace(0.35, deviation=0.0), batch).value
    assert torch.equal(found, adjust(CosFace(0.35), batch).value)


def test_draws_around_a_classs_small_margin_do_not_go_below_zero():
    batch = samples([0.5] * 64, class_margin=torch.zeros(64, dtype=torch.float64))
    assert adjust(ElasticCosFace(), batch).value.max() == 0.5
    assert adjust(ElasticArcFace(), batch).value.max().item() == pytest.approx(0.5, abs=1e-15)


@pytest.mark.parametrize("kind", [ElasticArcFace, ElasticCosFace])
@pytest.mark.parametrize(("margin", "deviation"), [(0.2, 0.05), (0.9, 0.2), (0.5, -0.1)])
def test_draws_that_could_leave_the_margins_range_are_refused(kind, margin, deviation):
    with pytest.raises(ValueError, match=rf"{kind.__name__} .*deviation"):
        kind(margin, deviation=deviation)
