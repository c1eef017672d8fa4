"""Verification figures against hand-written definitions, and what they must be for known scores."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.errors import RunError
from trainer.evaluate.verification import (
    INSIGHTFACE_THRESHOLDS,
    accept_rates,
    area_under_roc,
    bootstrap_interval,
    fold_accuracy,
    measure,
    roc,
    tar_at,
)

NUM_FOLDS = 10


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_pairs(num_pairs: int = 600, noise: float = 1.5, seed: int = 0):
    """Embeddings of pairs, half of them of one person; more noise makes them harder."""
    random = np.random.default_rng(seed)
    person = random.normal(size=(2, num_pairs, 16))
    same = np.arange(num_pairs) % 2 == 0
    person[1, same] = person[0, same]
    first, second = (unit(p + noise * random.normal(size=p.shape)) for p in person)
    fold = np.repeat(np.arange(NUM_FOLDS), num_pairs // NUM_FOLDS)
    return first, second, same, fold


def make_scores(**options):
    first, second, same, fold = make_pairs(**options)
    return (first * second).sum(1), same, fold


def accuracy_longhand(distance, same, fold, candidates_of):
    """insightface's calculate_roc, one threshold and one fold at a time."""
    accuracies = []
    for number in np.unique(fold):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        best, best_correct = None, -1
        for threshold in candidates_of(distance[train]):
            correct = sum((distance[i] < threshold) == same[i] for i in train)
            if correct > best_correct:
                best, best_correct = threshold, correct
        accuracies.append(sum((distance[i] < best) == same[i] for i in test) / len(test))
    return accuracies


def test_accuracy_on_the_grid_equals_insightface_s_loops():
    first, second, same, fold = make_pairs(num_pairs=200)
    distance = np.square(first - second).sum(1)
    expected = accuracy_longhand(distance, same, fold, lambda _: np.arange(0, 4, 0.01))
    got = fold_accuracy((first * second).sum(1), same, fold, distances=INSIGHTFACE_THRESHOLDS)
    assert got.folds == pytest.approx(expected, abs=0)  # counts over the same pairs: no rounding
    assert got.accuracy == np.mean(expected)
    assert got.std == np.std(expected)


def test_accuracy_with_every_threshold_equals_a_search_over_all_midpoints():
    score, same, fold = make_scores(num_pairs=100)

    def midpoints(distance):
        values = np.unique(distance)
        return [values[0], *((values[1:] + values[:-1]) / 2), values[-1] + 1e-9]

    expected = accuracy_longhand(2 - 2 * score, same, fold, midpoints)
    assert list(fold_accuracy(score, same, fold).folds) == expected


@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 2)), min_size=6, max_size=40
    )
)
def test_no_threshold_of_the_other_folds_is_better_even_with_ties(pairs):
    score, same, fold = (np.array(column) for column in zip(*pairs, strict=True))
    score = score / 4.0
    assume(len(np.unique(fold)) > 1)
    found = fold_accuracy(score, same, fold)
    for number, threshold in zip(np.unique(fold), found.thresholds, strict=True):
        train = fold != number
        counts = [np.sum((score[train] > t) == same[train]) for t in np.arange(-1, 1.01, 0.125)]
        assert np.sum((score[train] > threshold) == same[train]) == max(counts)


def test_of_equally_good_thresholds_the_strictest_is_taken():
    score = np.array([0.9, 0.1, 0.9, 0.1])
    same = np.array([True, False, True, False])
    fold = np.array([0, 0, 1, 1])
    grid = np.array([0.1, 0.5, 1.0, 1.7])  # the distances are 0.2 and 1.8: the last three are right
    assert fold_accuracy(score, same, fold, distances=grid).thresholds == (0.75, 0.75)


def test_the_threshold_of_a_fold_ignores_that_fold():
    score, same, fold = make_scores()
    changed = np.where(fold == 3, -score, score)
    before, after = fold_accuracy(score, same, fold), fold_accuracy(changed, same, fold)
    assert before.thresholds[3] == after.thresholds[3]
    assert before.folds[3] > 0.6 > after.folds[3]


def test_identical_embeddings_of_a_person_are_told_apart_without_error():
    first, second, same, fold = make_pairs()
    second[same] = first[same]
    found = measure((first * second).sum(1), same, fold)
    assert (found.accuracy, found.accuracy_std, found.auc) == (1.0, 0.0, 1.0)
    assert found.tar == {"1e-1": 1.0, "1e-2": 1.0, "1e-3": 1.0}
    assert found.interval == (1.0, 1.0)


def test_random_embeddings_are_told_apart_half_the_time():
    first, second, _, _ = make_pairs(num_pairs=6000, seed=4)
    random = np.random.default_rng(5)
    same = random.permuted(np.arange(6000) % 2 == 0)
    fold = np.repeat(np.arange(10), 600)
    found = measure((first * random.permuted(second, axis=0)).sum(1), same, fold)
    two_errors = 2 * np.sqrt(0.25 / 6000)  # standard error of 6,000 coin flips, twice: 0.0129
    assert abs(found.accuracy - 0.5) < two_errors
    assert abs(found.auc - 0.5) < 2 * np.sqrt(1 / (12 * 3000) * 2)
    assert found.interval[0] < found.accuracy < found.interval[1]


def test_the_order_of_pairs_changes_nothing_but_the_bootstrap_s_draws():
    score, same, fold = make_scores()
    order = np.random.default_rng(1).permutation(len(score))
    one = measure(score, same, fold)
    two = measure(score[order], same[order], fold[order])
    for name in ("accuracy", "accuracy_std", "threshold", "tar", "far_points", "tar_points"):
        assert getattr(one, name) == getattr(two, name)
    assert two.auc == pytest.approx(one.auc, rel=1e-14)  # the mean is summed in another order


def test_swapping_the_faces_of_a_pair_changes_nothing():
    first, second, same, fold = make_pairs()
    one = measure((first * second).sum(1), same, fold)
    two = measure((second * first).sum(1), same, fold)
    assert one == two


def test_true_accepts_equal_a_count_over_all_thresholds():
    score, same, _ = make_scores(num_pairs=300)
    score = np.round(score, 1)  # many ties
    for far in (0.0, 0.013, 0.1, 0.29, 0.5, 1.0):
        rates = [
            (np.mean(score[~same] > t), np.mean(score[same] > t))
            for t in [*np.unique(score), -np.inf]
        ]
        assert tar_at(score, same, far) == pytest.approx(
            max(tar for false, tar in rates if false <= far), rel=1e-14
        )


def test_the_roc_rises_and_has_at_most_the_points_asked_for():
    score, same, _ = make_scores(num_pairs=3000)
    far, tar = roc(score, same, points=200)
    assert len(far) == len(tar) <= 200
    assert np.all(np.diff(far) > 0)
    assert np.all(np.diff(tar) >= 0)
    assert (far[0], far[-1], tar[-1]) == (0.0, 1.0, 1.0)
    assert list(tar) == list(accept_rates(score, same, np.rint(far * 1500).astype(int)))


def test_area_under_the_roc_equals_a_count_over_all_pairs_of_pairs():
    score, same, _ = make_scores(num_pairs=120)
    score = np.round(score, 1)
    difference = score[same][:, None] - score[~same][None, :]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0))
    assert area_under_roc(score, same) == pytest.approx(expected, rel=1e-14)


def test_the_bootstrap_interval_is_that_of_a_binomial_share():
    correct = np.arange(2000) % 10 != 0  # 90 %
    low, high = bootstrap_interval(correct, np.repeat(np.arange(10), 200))
    half = 1.96 * np.sqrt(0.9 * 0.1 / 2000)
    # The ends of 1,000 replicates have a standard error of about 8 % of the half width.
    assert low == pytest.approx(0.9 - half, abs=0.3 * half)
    assert high == pytest.approx(0.9 + half, abs=0.3 * half)


def test_the_bootstrap_is_the_same_every_time_and_another_with_another_seed():
    score, same, fold = make_scores()
    one, again = measure(score, same, fold), measure(score, same, fold)
    assert one == again
    assert measure(score, same, fold, seed=1).interval != one.interval


def test_a_record_has_the_fields_of_a_line_of_the_evaluations_file():
    found = measure(*make_scores())
    record = found.record(step=7, name="lfw", clock=lambda: 12.5)
    assert list(record) == [
        *("step", "set", "accuracy", "accuracy_std", "threshold", "tar", "auc", "roc"),
        *("num_pairs", "interval", "time"),
    ]
    assert (record["step"], record["set"], record["time"]) == (7, "lfw", 12.5)
    assert list(record["tar"]) == ["1e-1", "1e-2", "1e-3"]
    assert 0.5 < record["interval"][0] < record["accuracy"] < record["interval"][1] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y, f: (np.where(f == 0, np.nan, s), y, f), "60 of 600 .* diverged"),
        (lambda s, y, f: (s, np.ones_like(y), f), "the same and of different persons"),
        (lambda s, y, f: (s, y, np.zeros_like(f)), "at least two folds"),
    ],
)
def test_scores_that_mean_nothing_are_refused(change, message):
    with pytest.raises(RunError, match=message):
        measure(*change(*make_scores()))
