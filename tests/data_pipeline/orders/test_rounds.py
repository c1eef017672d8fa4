import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.orders.rounds import Rounds
from tests.data_pipeline.orders.labels import chi_square

shares = st.lists(st.floats(0, 100), min_size=1, max_size=12).filter(lambda s: max(s) > 1e-3)


@given(st.integers(1, 20), st.integers(0, 2**31))
def test_with_equal_shares_a_round_has_everybody_once(count, seed):
    identity, use = Rounds(np.full(count, 0.1), seed=seed).at(np.arange(4 * count))
    for e in range(4):
        assert sorted(identity[e * count : (e + 1) * count].tolist()) == list(range(count))
        assert (use[e * count : (e + 1) * count] == e).all()


@given(shares, st.integers(0, 2**31), st.integers(1, 200))
def test_uses_count_how_often_one_came_before_and_nobody_of_share_zero_comes(share, seed, entries):
    identity, use = Rounds(np.asarray(share), seed=seed).at(np.arange(entries))
    for who in range(len(share)):
        assert use[identity == who].tolist() == list(range((identity == who).sum()))
        if share[who] == 0:
            assert not (identity == who).any()


@given(shares, st.integers(0, 2**31))
def test_after_whole_rounds_everybody_is_within_one_of_the_exact_share(share, seed):
    share = np.asarray(share)
    rounds = Rounds(share, seed=seed)
    exact = share / share.sum() * (share > 0).sum()
    for e in (1, 2, 50):
        end = rounds._total(e)
        identity, _ = rounds.at(np.arange(end))
        times = np.bincount(identity, minlength=len(share))
        # 2^-33 of rounding a share and a round, beside the one that phases allow
        assert np.abs(times - e * exact).max() < 1 + 1e-6


@given(shares, st.integers(0, 2**31), st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_an_entry_does_not_depend_on_what_else_is_asked_or_was_before(share, seed, entries):
    used, share = Rounds(np.asarray(share), seed=seed), np.asarray(share)
    everything = np.stack(used.at(np.arange(301)))
    asked = np.asarray(entries)
    assert np.array_equal(np.stack(used.at(asked)), everything[:, asked])
    assert np.array_equal(np.stack(Rounds(share, seed=seed).at(asked)), everything[:, asked])


def test_every_place_of_a_round_is_equally_likely():
    rounds = Rounds(np.ones(20), seed=3)
    identity, _ = rounds.at(np.arange(20 * 2000))
    place = np.arange(len(identity)) % 20
    # 400 cells of 100 expected; rows and columns sum exactly, which makes it more even than chance
    assert chi_square(np.bincount(place * 20 + identity, minlength=400)) < 4


def test_neighbours_are_as_in_a_fair_shuffle():
    identity, _ = Rounds(np.ones(100), seed=0).at(np.arange(100 * 400))
    step = np.diff(identity.reshape(400, 100), axis=1).ravel() % 100
    assert (step != 0).all()
    assert chi_square(np.bincount(step, minlength=100)[1:]) < 4  # 400 expected in each cell


def test_rare_identities_are_spread_over_the_rounds():
    share = np.concatenate((np.full(100, 0.05), np.full(100, 1.95)))
    identity, _ = Rounds(share, seed=1).at(np.arange(200 * 20))
    rare = (identity < 100).reshape(20, 200).sum(1)
    # 5 a round on average; phases that all were 0 would put all 100 into the last one
    assert rare.sum() == pytest.approx(100, abs=10)
    assert rare.max() < 20


@pytest.mark.parametrize("share", [[], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan], [np.inf]])
def test_shares_that_say_nothing_are_refused(share):
    with pytest.raises(ValueError, match="shares must be finite"):
        Rounds(np.asarray(share, float), seed=0)
