"""What a sample does to the loss, in numbers."""

import math

import pytest
import torch

from sharded_fc.sampling import effective_margin, expected_distinct, share_visited
from sharded_fc.sampling.inclusion import most_on_rank


def test_the_share_counts_positives_whole_and_others_by_their_rate():
    assert share_visited(1000, positives=100.0, rate=0.1) == pytest.approx((100 + 90) / 1000)


def test_a_tenth_of_the_classes_acts_like_a_margin_of_0364_instead_of_04():
    # As measured on 131,000 random centres: rate 0.1 with margin 0.4 has the loss of margin 0.364.
    assert effective_margin(0.4, share=0.1, scale=64.0) == pytest.approx(0.364, abs=5e-4)
    assert effective_margin(0.4, share=1.0, scale=64.0) == 0.4


def test_distinct_labels_of_a_batch_are_counted_as_drawn_evenly():
    label = torch.randint(500, (4000, 300), generator=torch.Generator().manual_seed(0))
    found = sum(len(row.unique()) for row in label) / 4000
    assert expected_distinct(500, 300) == pytest.approx(found, rel=2e-3)  # 5 standard errors


def test_the_most_a_rank_gets_is_the_mean_and_six_deviations():
    spread = math.sqrt(1000 * 0.25 * 0.75 * 9000 / 9999)
    assert most_on_rank(10_000, drawn=1000, own_classes=2500) == math.ceil(250 + 6 * spread)
    assert most_on_rank(10_000, drawn=10_000, own_classes=2500) == 2500
    assert most_on_rank(10_000, drawn=3, own_classes=2500) == 3
