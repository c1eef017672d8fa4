import copy

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.orders.identities import Identities
from tests.data_pipeline.faces import dataset_of
from tests.data_pipeline.orders.labels import chi_square, identities_of, labels_of


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.integers(1, 7))
def test_every_sample_is_listed_once_under_its_label(images, shard_size):
    label = labels_of(images)
    sizes = tuple(len(label[i : i + shard_size]) for i in range(0, len(label), shard_size))
    found = Identities.from_labels(label, num_identities=len(images), shard_sizes=sizes)
    assert found.images.tolist() == images
    for identity in range(len(images)):
        listed = found.sample[found.start[identity] : found.start[identity + 1]]
        assert listed.tolist() == np.flatnonzero(label == identity).tolist()


def test_labels_are_read_from_the_records_and_those_that_do_not_exist_are_nobodys(tmp_path):
    dataset = dataset_of(tmp_path / "d", [b"x" * 9000] * 6, [4, 0, -3, 4, 5, 0], num_identities=5)
    assert len(dataset.shards) > 1
    found = Identities.of(dataset)
    assert found.images.tolist() == [2, 0, 0, 0, 2]
    assert found.sample.tolist() == [1, 5, 0, 3]


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**31))
def test_a_turn_shows_every_image_and_a_group_no_image_twice_if_there_are_enough(n, each, seed):
    found = identities_of([3, n, 2])
    groups = -(-n // each)
    for turn in range(3):
        use = np.arange(turn * groups, (turn + 1) * groups)
        sample, epoch = found.show(np.full(groups, 1), use, each=each, seed=seed)
        own = found.sample[found.start[1] : found.start[2]]
        assert set(sample.ravel().tolist()) == set(own.tolist())
        times = np.unique(sample, return_counts=True)[1]
        assert times.max() - times.min() <= 1
        for group in sample.tolist():
            assert len(set(group)) == min(n, each)
        assert len(set(zip(sample.ravel(), epoch.ravel(), strict=True))) == sample.size


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(1, 4), st.integers(2, 40))
def test_no_sample_comes_twice_with_the_same_epoch_over_many_turns(images, each, uses):
    found = identities_of(images)
    who = np.repeat(np.arange(len(images)), uses)
    use = np.tile(np.arange(uses), len(images))
    sample, epoch = found.show(who, use, each=each, seed=0)
    assert (
        len(set(zip(sample.ravel().tolist(), epoch.ravel().tolist(), strict=True))) == sample.size
    )
    together = [found.show(who[[i]], use[[i]], each=each, seed=0)[0][0] for i in range(len(who))]
    assert np.array_equal(np.stack(together), sample)  # a group does not depend on its neighbours


def test_all_pairs_of_images_are_equally_likely():
    found = identities_of([6])
    sample, _ = found.show(np.zeros(9000, np.int64), np.arange(9000), each=2, seed=5)
    first, second = np.searchsorted(found.sample, sample).T
    counts = np.bincount(first * 6 + second, minlength=36).reshape(6, 6)
    assert (np.diag(counts) == 0).all()
    # Groups of a turn exclude each other, which only makes the counts more even than chance.
    assert chi_square(counts[~np.eye(6, dtype=bool)]) < 4  # chance of more: below 1e-3


def test_copying_copies_nothing():
    found = identities_of([2, 3])
    assert copy.deepcopy(found) is found


def test_the_images_are_pinned_because_a_checkpoint_says_only_how_far_it_came():
    found = identities_of([4, 3])
    sample, epoch = found.show(np.array([0, 1, 1]), np.array([0, 0, 1]), each=2, seed=0)
    assert sample.tolist() == [[4, 0], [3, 1], [5, 3]]
    assert epoch.tolist() == [[0, 0], [0, 0], [0, 1]]
