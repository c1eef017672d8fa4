"""The drawn classes: the same at any world size, as likely as they say, no more than planned."""

import pytest
import torch

from sharded_fc.partition import bounds
from sharded_fc.sampling import Draw
from sharded_fc.sampling.inclusion import most_on_rank
from tests.sharded_fc.sampling.chi_square import deviations, pair_counts

DRAWS = 2500
NONE = torch.empty(0, dtype=torch.int64)
MANNERS = [
    {"count": 40},
    {"count": 400},
    {"count": 400, "quota": "peer"},
    {"count": 200, "block": 16},
    {"count": 200, "block": 7},
    {"count": 30, "block": 7, "shuffled": True},
    {"count": 700, "block": 16, "shuffled": True},
]


def drawn(draw, step, positives=NONE, *, start=0, stop=None):
    stop = draw.num_classes if stop is None else stop
    classes, _ = draw.of_step(torch.tensor(step), positives, start=start, stop=stop)
    return classes


def membership(draw, positives=NONE, *, draws=DRAWS):
    """[draws, classes] of 0 and 1."""
    taken = torch.zeros(draws, draw.num_classes)
    for step in range(draws):
        taken[step, drawn(draw, step, positives)] = 1
    return taken


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_draw_together_what_one_rank_draws_alone(world, manner):
    draw = Draw(num_classes=1003, seed=4, **manner)
    positives = torch.tensor([0, 5, 500, 501, 1002])
    for step in range(3):
        alone = drawn(draw, step, positives)
        pieces = [
            drawn(draw, step, positives, start=start, stop=stop)
            for start, stop in bounds(1003, world)
        ]
        assert torch.equal(torch.cat(pieces), alone)
        assert torch.equal(alone, alone.unique())  # ascending, each once
        assert not torch.isin(alone, positives).any()


@pytest.mark.parametrize("manner", MANNERS)
def test_another_step_and_another_seed_draw_others(manner):
    draw = Draw(num_classes=1003, seed=4, **manner)
    other = Draw(num_classes=1003, seed=5, **manner)
    assert not torch.equal(drawn(draw, 0), drawn(draw, 1))
    assert not torch.equal(drawn(draw, 0), drawn(other, 0))
    assert torch.equal(drawn(draw, 0), drawn(draw, 0))


def test_positives_come_on_top_of_the_count_or_are_part_of_it():
    positives = torch.arange(0, 100, 9)
    on_top = Draw(num_classes=100, count=40, seed=0)
    peer = Draw(num_classes=100, count=40, seed=0, quota="peer")
    for step in range(50):
        assert len(drawn(on_top, step)) == 40
        known = torch.isin(drawn(on_top, step), positives).sum()
        assert len(drawn(on_top, step, positives)) == 40 - known
        assert len(drawn(peer, step, positives)) == 40 - len(positives)
    few = Draw(num_classes=100, count=5, seed=0, quota="peer")
    assert len(drawn(few, 0, positives)) == 0  # as public code: then the positives alone


@pytest.mark.parametrize("quota", ["negatives", "peer"])
def test_each_class_and_each_pair_is_drawn_as_often_as_it_says(quota):
    """Given the batch's classes, every other class alike; chi-square within four deviations."""
    draw = Draw(num_classes=15, count=6, seed=1, quota=quota)
    positives = torch.tensor([2, 11])
    rate = draw.of_step(torch.tensor(0), positives, start=0, stop=15)[1]
    assert rate == pytest.approx(6 / 15 if quota == "negatives" else 4 / 13)
    taken = membership(draw, positives)
    others = torch.tensor([c for c in range(15) if c not in (2, 11)])
    single = taken[:, others].sum(0)
    expected = torch.full_like(single, DRAWS * rate)
    scaled = expected + (single - expected) / (1 - rate) ** 0.5
    assert abs(deviations(scaled, expected, freedom=12)) < 4
    pairs = pair_counts(taken[:, others])
    both = 6 * 5 / (15 * 14) if quota == "negatives" else 4 * 3 / (13 * 12)
    expected = torch.full_like(pairs, DRAWS * both)
    # Counts of pairs are correlated through shared classes; 1.3 covers it for true draws.
    scaled = expected + (pairs - expected) / (1.3 * (1 - both)) ** 0.5
    assert deviations(scaled, expected, freedom=len(pairs)) < 4


def test_a_class_of_the_short_last_block_is_as_likely_as_any():
    """23 classes in blocks of 5: three are drawn of five, the last of which has 3 classes."""
    draw = Draw(num_classes=23, count=15, block=5, seed=2)
    assert (draw.num_blocks, draw.drawn_blocks, draw.rate) == (5, 3, 0.6)
    single = membership(draw).sum(0)
    # Five standard errors of a share.
    assert (single / DRAWS - 0.6).abs().max() < 5 * (0.6 * 0.4 / DRAWS) ** 0.5
    together = single.view(-1)
    assert all(len(set(together[i : i + 5].tolist())) == 1 for i in range(0, 23, 5))


def test_shuffled_blocks_hold_the_same_classes_at_every_step_but_no_neighbours():
    """Labels in a telling order, as of people by country, are then not drawn together."""
    draw = Draw(num_classes=200, count=8, block=8, seed=2, shuffled=True)
    taken = membership(draw, draws=300)
    together = taken.t() @ taken
    for number in range(200):
        # A class's companions: 7, all of them as often drawn as itself, wherever they lie.
        same = (together[number] == together[number, number]).nonzero().squeeze(1)
        assert len(same) == 8 or not together[number, number]
    neighbours = sum(bool(together[i, i + 1]) for i in range(199))
    # 199 pairs of neighbours fall into one of 25 blocks with probability 7 / 199: 7 +- 2.6.
    assert neighbours < 7 + 5 * 2.6
    other = membership(Draw(num_classes=200, count=8, block=8, seed=3, shuffled=True), draws=300)
    assert not torch.equal(other.t() @ other > 0, together > 0)


def test_a_class_of_shuffled_blocks_is_as_likely_as_any():
    """23 classes in blocks of 5, of which the last place's has 3; five standard errors."""
    draw = Draw(num_classes=23, count=15, block=5, seed=2, shuffled=True)
    positives = torch.tensor([1, 20])
    classes, rate = draw.of_step(torch.tensor(0), positives, start=0, stop=23)
    assert rate == 0.6
    assert not torch.isin(classes, positives).any()
    single = membership(draw).sum(0)
    assert (single / DRAWS - 0.6).abs().max() < 5 * (0.6 * 0.4 / DRAWS) ** 0.5


def test_a_block_across_two_ranks_is_drawn_by_both():
    draw = Draw(num_classes=20, count=8, block=8, seed=0)
    seen = set()
    for step in range(30):
        left = drawn(draw, step, stop=10)
        right = drawn(draw, step, start=10)
        whole = torch.cat([left, right])
        assert set((whole // 8).tolist()) == {int(whole[0]) // 8}
        seen.add(int(whole[0]) // 8)
        assert len(whole) == (4 if int(whole[0]) // 8 == 2 else 8)
    assert seen == {0, 1, 2}


def test_classes_beside_a_positive_in_its_block_are_not_in_the_sample():
    draw = Draw(num_classes=64, count=8, block=8, seed=0)
    for step in range(20):
        chosen = drawn(draw, step)
        block = int(chosen[0]) // 8
        elsewhere = torch.tensor([(block * 8 + 11) % 64])
        assert torch.equal(drawn(draw, step, elsewhere), chosen)


@pytest.mark.parametrize("world", [2, 8])
def test_no_rank_gets_more_than_six_deviations_above_the_mean(world):
    draw = Draw(num_classes=5000, count=500, seed=3)
    for start, stop in bounds(5000, world):
        bound = most_on_rank(5000, drawn=500, own_classes=stop - start)
        assert bound < 1.8 * 500 / world + 10
        assert all(len(drawn(draw, s, start=start, stop=stop)) <= bound for s in range(40))


def test_everything_and_nothing_can_be_drawn():
    assert torch.equal(drawn(Draw(num_classes=9, count=9, seed=0), 0), torch.arange(9))
    assert len(drawn(Draw(num_classes=9, count=0, seed=0), 0)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 10}, "a draw of 10 of 9"),
        ({"block": 0}, "at least 1"),
        ({"block": 2, "quota": "peer"}, "use block 1"),
        ({"shuffled": True}, "use a block above 1"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Draw(**{"num_classes": 9, "count": 3, "seed": 0, **changes})
