"""AdaFace: the running mean and deviation of the global batch's lengths, and small batches."""

import pytest
import torch

from sharded_fc.margins import AdaFace
from tests.sharded_fc.margins.batches import adjust, samples, state_of

COSINE = [0.3, 0.3, 0.3, 0.3]


def test_mean_and_deviation_move_by_the_rate_from_the_authors_start():
    assert AdaFace().initial_state(num_classes=10) == {"mean": 20.0, "std": 100.0}
    found = adjust(AdaFace(), samples(COSINE, norm=[10.0, 20.0, 30.0, 40.0]))
    assert found.state["mean"].item() == pytest.approx(0.99 * 20 + 0.01 * 25, rel=1e-15)
    # The deviation with n - 1: sqrt(500 / 3).
    assert found.state["std"].item() == pytest.approx(99 + 0.01 * (500 / 3) ** 0.5, rel=1e-15)


def test_the_deviation_of_nearly_equal_lengths_survives():
    # 50 + 1e-6 i: a one-pass sum of squares would lose it among 2,500s.
    norm = torch.tensor([50.0, 50.000001, 50.000002, 50.000003], dtype=torch.float64)
    found = adjust(AdaFace(rate=1.0), samples(COSINE, norm=norm))
    assert found.state["std"].item() == pytest.approx(1.2909944487e-06, rel=1e-8)


def test_a_batch_of_one_moves_the_mean_and_keeps_the_deviation():
    found = adjust(AdaFace(rate=0.5), samples([0.3], norm=[60.0]), mean=20.0, std=7.0)
    assert found.state["mean"].item() == 40.0
    assert found.state["std"].item() == 7.0
    assert found.value.isfinite().all()


def test_one_sample_with_a_class_among_others_without_is_a_batch_of_one():
    batch = samples(COSINE, norm=[60.0, 1.0, 2.0, 3.0], labelled=[True, False, False, False])
    found = adjust(AdaFace(rate=0.5), batch, mean=20.0, std=7.0)
    assert (found.state["mean"].item(), found.state["std"].item()) == (40.0, 7.0)


def test_lengths_are_clipped_before_they_enter_the_mean():
    found = adjust(AdaFace(rate=1.0), samples(COSINE[:2], norm=[0.0, 1e9]))
    assert found.state["mean"].item() == pytest.approx((0.001 + 100.0) / 2, rel=1e-15)


def test_statistics_moved_in_a_step_are_used_in_it():
    batch = samples(COSINE[:2], norm=[10.0, 30.0])
    first = adjust(AdaFace(rate=1.0), batch, mean=500.0, std=1.0)
    again = adjust(AdaFace(rate=1e-12), batch, mean=20.0, std=200.0**0.5)
    torch.testing.assert_close(first.value, again.value, rtol=0.0, atol=1e-12)  # the rate's share


def test_the_gradient_does_not_pass_through_the_length():
    assert adjust(AdaFace(), samples(COSINE)).norm_slope is None


def test_the_order_of_the_batch_does_not_matter():
    norm = torch.tensor([10.0, 20.0, 35.0, 40.0], dtype=torch.float64)
    one = AdaFace().adjust(samples(COSINE, norm=norm), state_of(AdaFace()))
    other = AdaFace().adjust(samples(COSINE, norm=norm.flip(0)), state_of(AdaFace()))
    torch.testing.assert_close(one.value.flip(0), other.value, rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("changes", [{"margin": 2.0}, {"concentration": 0.0}, {"rate": 0.0}])
def test_numbers_outside_the_definition_are_refused(changes):
    with pytest.raises(ValueError, match=r"AdaFace .*; use"):
        AdaFace(**changes)
