import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.pairs_draw import draw_pairs


def labels_of(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return labels[np.argsort(np.sin(np.arange(len(labels))), kind="stable")]  # some fixed shuffle


@given(st.lists(st.integers(2, 9), min_size=12, max_size=40), st.integers(1, 4), st.integers(0, 99))
def test_pairs_are_distinct_balanced_and_folds_share_no_person(sizes, folds, seed):
    labels = labels_of(sizes)
    pairs = draw_pairs(labels, num_pairs=4 * folds + 3, folds=folds, seed=seed)
    assert np.array_equal(labels[pairs.first] == labels[pairs.second], pairs.same)
    assert pairs.same.sum() == 2 * folds + 1
    ends = zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    assert len({frozenset(end) for end in ends}) == 4 * folds + 3
    for same in (True, False):
        per_fold = np.bincount(pairs.fold[pairs.same == same], minlength=folds)
        assert per_fold.max() - per_fold.min() <= 1
    persons = [
        set(labels[pairs.first[pairs.fold == k]]) | set(labels[pairs.second[pairs.fold == k]])
        for k in range(folds)
    ]
    assert sum(map(len, persons)) == len(set().union(*persons))


def test_persons_take_part_equally_often():
    # 100 persons of 20 images, 2,000 pairs in ten folds: 100 same pairs for ten persons of a fold.
    labels = labels_of([20] * 100)
    pairs = draw_pairs(labels, num_pairs=2000)
    assert np.bincount(labels[pairs.first[pairs.same]]).tolist() == [10] * 100
    different = labels[pairs.first[~pairs.same]], labels[pairs.second[~pairs.same]]
    couples = np.unique(
        [tuple(sorted(c)) for c in zip(*different, strict=True)], axis=0, return_counts=True
    )[1]
    assert len(couples) == 10 * 45  # every two persons of every fold
    assert set(couples.tolist()) == {2, 3}


def test_the_same_seed_draws_the_same_pairs_and_another_others():
    labels = labels_of([5] * 40)
    first, again, other = (draw_pairs(labels, num_pairs=100, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.first, again.first)
    assert np.array_equal(first.second, again.second)
    assert not np.array_equal(first.first, other.first)


def test_all_pairs_there_are_can_be_drawn():
    labels = labels_of([3, 3])  # 3 + 3 same pairs, 9 different ones
    pairs = draw_pairs(labels, num_pairs=12, folds=1)
    assert pairs.same.sum() == 6


@pytest.mark.parametrize(
    ("sizes", "num_pairs", "folds", "message"),
    [
        ([1] * 30, 20, 10, "fold 0 needs 1 same pairs, but its 3 persons have images for 0"),
        ([3, 3], 14, 1, "fold 0 needs 7 same pairs, but its 2 persons have images for 6"),
        ([9], 2, 1, "fold 0 needs 1 different pairs, but its 1 persons have images for 0"),
        ([3] * 5, 40, 10, "fold 0 needs 2 different pairs, but its 1 persons"),
        ([3] * 30, 19, 10, "19 pairs are too few for both kinds in each of 10 folds"),
    ],
)
def test_too_few_images_for_the_pairs_are_refused(sizes, num_pairs, folds, message):
    with pytest.raises(DataError, match=message):
        draw_pairs(labels_of(sizes), num_pairs=num_pairs, folds=folds)
