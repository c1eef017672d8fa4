import tracemalloc
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.plan import Plan, share

shapes = st.fixed_dictionaries(
    {
        "shard_sizes": st.lists(st.integers(1, 30), min_size=1, max_size=8).map(tuple),
        "micro_batches": st.integers(1, 12),
        "micro_batch_size": st.integers(1, 9),
        "seed": st.integers(0, 2**31),
        "shuffle_window": st.integers(1, 4),
    }
)


def lane_of_epoch(plan, epoch, j):
    """The samples of lane j in one epoch, found through the public interface only."""
    n, m = plan.num_samples, plan.micro_batches
    sample, of_epoch = plan.lane(j, 0, (epoch + 1) * n // m + 2)
    return sample[of_epoch == epoch]


@given(shapes, st.integers(0, 5))
def test_an_epoch_has_every_sample_once_and_lanes_of_equal_length(shape, epoch):
    plan = Plan(**shape)
    lanes = [lane_of_epoch(plan, epoch, j) for j in range(plan.micro_batches)]
    assert sorted(np.concatenate(lanes).tolist()) == list(range(plan.num_samples))
    lengths = [len(lane) for lane in lanes]
    assert max(lengths) - min(lengths) <= 1


@given(shapes, st.integers(1, 8))
def test_lanes_stay_level_over_all_epochs_together(shape, epochs):
    plan = Plan(**shape)
    held = [
        sum(len(lane_of_epoch(plan, e, j)) for e in range(epochs))
        for j in range(plan.micro_batches)
    ]
    assert max(held) - min(held) <= 1


@given(shapes, st.integers(0, 40))
def test_a_steps_samples_do_not_depend_on_what_was_asked_before(shape, step):
    plan = Plan(**shape)
    fresh = Plan(**shape)
    for j in range(plan.micro_batches):
        uninterrupted = np.concatenate([plan.micro_batch(s, j)[0] for s in range(step + 2)])
        resumed = np.concatenate([fresh.micro_batch(s, j)[0] for s in (step, step + 1)])
        assert np.array_equal(resumed, uninterrupted[step * plan.micro_batch_size :])


@given(shapes, st.integers(0, 10), st.data())
def test_ranks_of_any_world_size_read_the_same_steps(shape, step, data):
    plan = Plan(**shape)
    world = data.draw(st.integers(1, plan.micro_batches))
    alone = [plan.micro_batch(step, j) for j in range(plan.micro_batches)]
    shared = [
        plan.micro_batch(step, j)
        for rank in range(world)
        for j in share(plan.micro_batches, rank, world)
    ]
    assert len(shared) == len(alone)
    for (sample, epoch), (other_sample, other_epoch) in zip(shared, alone, strict=True):
        assert np.array_equal(sample, other_sample)
        assert np.array_equal(epoch, other_epoch)


@given(shapes, st.integers(0, 3), st.integers(0, 200), st.integers(0, 60))
def test_single_places_batches_and_stretches_of_a_lane_agree(shape, j, start, length):
    plan = Plan(**shape)
    j %= plan.micro_batches
    sample, epoch = plan.lane(j, start, start + length)
    assert len(sample) == len(epoch) == length
    singly = [plan.lane_sample(j, place) for place in range(start, start + length)]
    assert singly == list(zip(sample.tolist(), epoch.tolist(), strict=True))
    assert (np.diff(epoch) >= 0).all()
    assert all(plan.epoch_of(j, start + i) == e for i, e in enumerate(epoch.tolist()))


@given(shapes, st.integers(0, 3))
def test_a_lane_reads_no_more_shards_than_its_pieces_name(shape, epoch):
    plan = Plan(**shape)
    edges = np.cumsum((0, *plan.shard_sizes))
    for j in range(plan.micro_batches):
        pieces = plan.pieces(epoch, j)
        sample = lane_of_epoch(plan, epoch, j)
        shard = np.searchsorted(edges, sample, side="right") - 1
        assert set(shard.tolist()) == {piece.shard for piece in pieces}
        named = [edges[p.shard] + k for p in pieces for k in range(p.start, p.stop)]
        assert sorted(named) == sorted(sample.tolist())


@given(shapes, st.integers(0, 3))
def test_samples_are_shuffled_within_a_window_of_pieces_and_not_beyond(shape, epoch):
    """The reads bound: a stretch of a lane needs at most `shuffle_window` pieces at a time."""
    plan = Plan(**shape)
    edges = np.cumsum((0, *plan.shard_sizes))
    for j in range(plan.micro_batches):
        piece_of = {
            int(edges[piece.shard] + k): i
            for i, piece in enumerate(plan.pieces(epoch, j))
            for k in range(piece.start, piece.stop)
        }
        visited = [piece_of[s] for s in lane_of_epoch(plan, epoch, j).tolist()]
        latest = -1
        for i in visited:
            latest = max(latest, i)
            assert latest - i < plan.shuffle_window


def test_a_batch_may_span_two_epochs_and_is_never_short():
    plan = Plan((10,), micro_batches=1, micro_batch_size=4, seed=0)
    batches = [plan.micro_batch(step, 0) for step in range(5)]
    assert [len(sample) for sample, _ in batches] == [4] * 5
    assert batches[2][1].tolist() == [0, 0, 1, 1]
    seen = np.concatenate([sample for sample, _ in batches])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))


def test_fewer_samples_than_a_step_needs_still_gives_whole_batches():
    plan = Plan((2, 1), micro_batches=8, micro_batch_size=16, seed=0)
    step = [plan.micro_batch(0, j) for j in range(8)]
    seen = np.bincount(np.concatenate([sample for sample, _ in step]), minlength=3)
    assert seen.sum() == 8 * 16
    assert seen.max() - seen.min() <= 8  # each lane is within one pass of the others


def test_epochs_and_seeds_differ_in_order_and_in_what_a_lane_gets():
    plan = Plan((1000,), micro_batches=4, micro_batch_size=8, seed=0)
    other = Plan((1000,), micro_batches=4, micro_batch_size=8, seed=1)
    first, second = (lane_of_epoch(plan, epoch, 0) for epoch in (0, 1))
    assert set(first.tolist()) != set(second.tolist())
    assert not np.array_equal(first, lane_of_epoch(other, 0, 0))


def test_a_lane_is_well_shuffled():
    plan = Plan((100,) * 40, micro_batches=2, micro_batch_size=8, seed=3, shuffle_window=8)
    sample = lane_of_epoch(plan, 0, 1)
    # The chance that a sample is followed by its neighbour is 1/800 within a group of 800: about
    # 2.5 in 2000, and 12 or more have p < 1e-4.
    assert (np.diff(sample) == 1).sum() < 12


def test_forty_million_samples_cost_little_memory_and_never_a_permutation_of_all():
    tracemalloc.start()
    plan = Plan((8000,) * 5000, micro_batches=64, micro_batch_size=64, seed=0)
    sample, epoch = plan.micro_batch(1_000_000, 63)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(sample.tolist())) == 64
    assert sample.max() < plan.num_samples
    assert set(epoch.tolist()) == {1_000_000 * 64 * 64 // plan.num_samples}
    # A permutation of all would be 320 MB. A group is 8 x 8000 numbers of 8 bytes = 0.5 MB, held
    # about eight times while it is sorted.
    assert peak < 8e6


def test_the_work_for_one_group_serves_the_following_steps(monkeypatch):
    plan = Plan((8000,) * 50, micro_batches=2, micro_batch_size=64, seed=0)
    made = []
    monkeypatch.setattr(
        "data_pipeline.plan.keyed.permutation", lambda n, *_: made.append(n) or np.arange(n)
    )
    for step in range(100):
        plan.micro_batch(step, 0)
    assert len(made) == 2  # the shards of the epoch, and one group
    assert made[1] <= 8 * 8000


@given(st.integers(1, 300), st.data())
def test_shares_are_contiguous_cover_all_micro_batches_and_differ_by_one(micro_batches, data):
    world = data.draw(st.integers(1, micro_batches))
    shares = [share(micro_batches, rank, world) for rank in range(world)]
    assert [j for part in shares for j in part] == list(range(micro_batches))
    assert max(map(len, shares)) <= ceil(micro_batches / world)
    assert min(map(len, shares)) >= micro_batches // world


def test_more_ranks_than_micro_batches_are_refused():
    with pytest.raises(ValueError, match="5 ranks cannot share 4 micro-batches: use at most 4"):
        share(4, 0, 5)
    with pytest.raises(ValueError, match="rank 2 does not exist among 2 ranks"):
        share(4, 2, 2)


@pytest.mark.parametrize(
    ("sizes", "change", "message"),
    [
        ((), {}, "the number of shards is 0"),
        ((3, 0), {}, "a shard's size is 0"),
        ((3,), {"micro_batches": 0}, "micro_batches is 0"),
        ((3,), {"micro_batch_size": -1}, "micro_batch_size is -1"),
        ((3,), {"shuffle_window": 0}, "shuffle_window is 0"),
    ],
)
def test_a_plan_without_samples_or_lanes_is_refused(sizes, change, message):
    settings = {"micro_batches": 2, "micro_batch_size": 2, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        Plan(sizes, **settings)


def test_a_lane_outside_the_plan_is_refused():
    plan = Plan((3,), micro_batches=2, micro_batch_size=2, seed=0)
    for j, start, stop in ((2, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 2, 1)):
        with pytest.raises(ValueError, match="outside the plan"):
            plan.lane(j, start, stop)


def test_the_order_is_pinned_because_a_checkpoint_says_only_how_far_it_came():
    plan = Plan((5, 3, 4), micro_batches=2, micro_batch_size=4, seed=7, shuffle_window=2)
    order = [[plan.micro_batch(step, j)[0].tolist() for j in range(2)] for step in range(2)]
    assert order == [[[4, 8, 5, 9], [7, 3, 1, 0]], [[10, 11, 4, 3], [6, 2, 10, 9]]]
