"""What every order promises, and what the images of each are.

Any world size reads the same because a rank asks for (step, j) of its share alone; so it is enough
that an answer depends on nothing else.
"""

import tracemalloc
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.long_tail import drawing_share
from data_pipeline.orders import Order
from data_pipeline.orders.by_identity import IdentityOrder
from data_pipeline.orders.identities import Identities
from data_pipeline.orders.mixed import PATTERN, MixedOrder
from data_pipeline.orders.pairs import PairOrder
from data_pipeline.plan import Plan, share
from tests.data_pipeline.orders.labels import identities_of, labels_of

IMAGES = [1, 7, 2, 12, 3, 1, 5, 2, 40, 4]
SIZES = (30, 17, 30)  # sum of IMAGES
IDENTITIES = identities_of(IMAGES, SIZES)
LABEL = labels_of(IMAGES)
M = 6


def balanced(seed: int, *, micro_batches: int = M) -> Order:
    return IdentityOrder(
        IDENTITIES,
        shard_sizes=SIZES,
        micro_batches=micro_batches,
        micro_batch_size=12,
        images_each=4,
        seed=seed,
    )


def long_tailed(seed: int, *, beta: float = 0.9) -> Order:
    return IdentityOrder(
        IDENTITIES,
        shard_sizes=SIZES,
        micro_batches=M,
        micro_batch_size=12,
        images_each=1,
        share=drawing_share(IDENTITIES.images, beta=beta),
        seed=seed,
    )


def paired(seed: int) -> PairOrder:
    return PairOrder(
        IDENTITIES,
        shard_sizes=SIZES,
        micro_batches=M,
        micro_batch_size=12,
        seed=seed,
        shuffle_window=2,
    )


def mixed(seed: int, *, weights: tuple[float, ...] = (3.0, 1.0)) -> Order:
    return MixedOrder(
        [SIZES[:2], SIZES[2:]],
        weights,
        micro_batches=M,
        micro_batch_size=12,
        seed=seed,
        shuffle_window=2,
    )


ORDERS = [balanced, long_tailed, paired, mixed]


@pytest.mark.parametrize("make", ORDERS)
@given(st.integers(0, 2**31), st.integers(0, 500), st.data())
def test_a_step_is_the_same_at_any_world_size_and_after_any_resume(
    make: Callable[[int], Order], seed: int, step: int, data: st.DataObject
):
    alone = make(seed)
    world = data.draw(st.integers(1, M))
    before = [alone.micro_batch(s, j) for s in (step, 0, step + 1) for j in range(M)]
    after = [
        rank_order.micro_batch(s, j)
        for s in (step, 0, step + 1)
        for rank in range(world)
        for rank_order in [make(seed)]  # a rank that has just been started
        for j in share(M, rank, world)
    ]
    for (sample, epoch), (other_sample, other_epoch) in zip(before, after, strict=True):
        assert np.array_equal(sample, other_sample)
        assert np.array_equal(epoch, other_epoch)
        assert len(sample) == len(epoch) == 12
        assert 0 <= sample.min() <= sample.max() < sum(SIZES)


@pytest.mark.parametrize("make", ORDERS)
def test_places_of_a_lane_are_its_micro_batches_in_a_row(make: Callable[[int], Order]):
    order = make(2)
    singly = [order.lane_sample(4, place) for place in range(36)]
    batches = [order.micro_batch(step, 4) for step in range(3)]
    assert singly == [pair for s, e in batches for pair in zip(s.tolist(), e.tolist(), strict=True)]


@pytest.mark.parametrize("make", [*ORDERS, lambda seed: mixed(seed, weights=(1.0, 20.0))])
def test_a_sample_never_comes_twice_with_the_same_epoch(make: Callable[[int], Order]):
    order = make(7)
    seen = Counter(
        pair
        for step in range(120)
        for j in range(M)
        for pair in zip(*(part.tolist() for part in order.micro_batch(step, j)), strict=True)
    )
    assert max(seen.values()) == 1


@pytest.mark.parametrize("make", ORDERS)
def test_seeds_and_steps_differ(make: Callable[[int], Order]):
    order, other = make(0), make(1)
    assert not np.array_equal(order.micro_batch(3, 0)[0], other.micro_batch(3, 0)[0])
    assert not np.array_equal(order.micro_batch(3, 0)[0], order.micro_batch(4, 0)[0])


def test_balanced_batches_have_as_many_images_of_as_many_identities():
    order = balanced(0)
    for step in range(20):
        for j in range(M):
            label = LABEL[order.micro_batch(step, j)[0]].reshape(3, 4)
            assert (label == label[:, :1]).all()
            # 10 identities a round, so 3 in a row differ unless a round ends among them
    label = np.concatenate(
        [LABEL[order.micro_batch(step, j)[0]][::4] for step in range(5) for j in range(M)]
    )
    assert np.bincount(label, minlength=10).tolist() == [9] * 10  # 5 x 6 x 3 in 9 rounds


def test_changing_the_number_of_micro_batches_only_cuts_the_same_sequence_otherwise():
    few, many = balanced(0, micro_batches=2), balanced(0, micro_batches=6)
    in_turn = [few.micro_batch(step, j)[0] for step in range(3) for j in range(2)]
    assert np.array_equal(
        np.stack(in_turn), np.stack([many.micro_batch(0, j)[0] for j in range(6)])
    )


@pytest.mark.parametrize(("beta", "expected"), [(0.0, IMAGES), (1.0, [1] * 10)])
def test_the_ends_of_the_long_tail_are_images_alike_and_people_alike(beta, expected):
    order = long_tailed(3, beta=beta)
    sample = np.concatenate([order.micro_batch(s, j)[0] for s in range(107) for j in range(M)])
    draws = np.bincount(LABEL[sample], minlength=10)
    exact = np.asarray(expected) / sum(expected) * len(sample)
    # never more than one off after whole rounds of 10 draws, and the last round is not whole
    assert np.abs(draws - exact).max() < 1 + 10
    times = np.bincount(sample, minlength=sum(SIZES))
    for identity in range(10):
        own = times[np.flatnonzero(identity == LABEL)]
        assert own.max() - own.min() <= 1  # its images take turns


def test_pair_batches_are_two_views_of_pairs_and_instances():
    order = paired(1)
    epochs = []
    for step in range(40):
        for j in range(M):
            sample, epoch = order.micro_batch(step, j)
            x, y = sample.reshape(2, 6)
            assert np.array_equal(LABEL[x[:3]], LABEL[y[:3]])
            two = np.isin(LABEL[x[:3]], np.flatnonzero(np.asarray(IMAGES) > 1))
            assert (x[:3] != y[:3])[two].all()
            epochs.append(epoch.reshape(2, 6))
    first_three, rest = np.stack(epochs)[:, :, :3], np.stack(epochs)[:, :, 3:]
    assert (first_three < 0).all()
    assert (rest >= 0).all()


def test_instances_of_pair_batches_are_the_plans():
    order = paired(1)
    plan = Plan(SIZES, micro_batches=M, micro_batch_size=6, seed=1, shuffle_window=2)
    for j in range(M):
        sample, _ = order.micro_batch(9, j)
        instances = np.concatenate((sample[3:6], sample[9:]))
        assert np.array_equal(instances, plan.micro_batch(9, j)[0])


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=4), st.integers(1, 40))
def test_every_dataset_has_its_share_of_every_stretch(weights, size):
    order = MixedOrder(
        [(50,)] * len(weights),
        weights,
        micro_batches=3,
        micro_batch_size=size,
        seed=0,
        shuffle_window=1,
    )
    shares = np.asarray(weights) / sum(weights)
    drawn = np.zeros((3, len(weights)))
    for step in range(30):
        for j in range(3):
            drawn[j] += np.bincount(order.micro_batch(step, j)[0] // 50, minlength=len(weights))
        # Each of the two ends of a stretch may be one sample of each dataset off its share, and
        # shares count in ten-thousandths.
        assert np.abs(drawn - (step + 1) * size * shares).max() <= (
            2 * len(weights) + (step + 1) * size / PATTERN
        )


def test_a_dataset_in_a_mixture_repeats_no_sample_within_its_epoch_of_a_lane():
    order = mixed(0)
    seen = Counter(
        (int(s), int(e))
        for step in range(3)
        for j in range(M)
        for s, e in zip(*order.micro_batch(step, j), strict=True)
        if s >= 47
    )
    first = {s for s, e in seen if e == 0}
    assert len(first) == 30  # 54 draws from 30 samples: the first epoch is whole


def test_two_million_identities_cost_little_more_than_their_numbers():
    each, people = 3, 200_000  # a tenth, for the test's sake; all is linear
    identities = Identities(np.arange(people + 1) * each, np.arange(people * each, dtype=np.uint32))
    tracemalloc.start()
    order = IdentityOrder(
        identities,
        shard_sizes=(people * each,),
        micro_batches=64,
        micro_batch_size=64,
        images_each=2,
        seed=0,
    )
    sample, _ = order.micro_batch(123_456, 63)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(sample.tolist())) == 64
    assert held < 60 * people  # three numbers of 8 bytes, two of each round
    assert peak < 150 * people


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedOrder([(3,)], [1.0, 2.0], **shape(4)), "2 weights for 1 datasets"),
        (lambda: MixedOrder([(3,), (3,)], [1.0, 0.0], **shape(4)), "must be positive numbers"),
        (lambda: MixedOrder([(3,), (3,)], [1.0, 1e-9], **shape(4)), "below a ten-thousandth"),
        (lambda: MixedOrder([(3,)], [1.0], **shape(0)), "micro-batches of 0 samples"),
        (lambda: PairOrder(IDENTITIES, shard_sizes=SIZES, **shape(6)), "use a multiple of 4"),
        (lambda: by_identity(images_each=5), "4 samples do not divide into identities with 5"),
        (lambda: by_identity(images_each=0), "images_each is 0; it must be at least 1"),
        (lambda: by_identity(images_each=2, micro_batches=0), "micro_batches is 0"),
    ],
)
def test_shapes_that_cannot_be_are_refused(make: Callable[[], Order], message: str):
    with pytest.raises(ValueError, match=message):
        make()


def shape(size: int) -> dict[str, int]:
    return {"micro_batches": 2, "micro_batch_size": size, "seed": 0, "shuffle_window": 1}


def by_identity(*, images_each: int, micro_batches: int = 2) -> Order:
    return IdentityOrder(
        IDENTITIES,
        shard_sizes=SIZES,
        micro_batches=micro_batches,
        micro_batch_size=4,
        images_each=images_each,
        seed=0,
    )


def test_the_orders_are_pinned_because_a_checkpoint_says_only_how_far_it_came():
    pinned = {make.__name__: make(5).micro_batch(11, 2)[0].tolist() for make in ORDERS}
    assert pinned == {
        "balanced": [24, 27, 41, 24, 23, 39, 48, 44, 25, 51, 25, 51],
        "long_tailed": [25, 9, 73, 20, 74, 27, 72, 65, 3, 37, 53, 50],
        "paired": [24, 36, 25, 34, 37, 74, 27, 23, 51, 32, 31, 35],
        "mixed": [37, 65, 38, 33, 42, 66, 41, 46, 1, 65, 45, 0],
    }
