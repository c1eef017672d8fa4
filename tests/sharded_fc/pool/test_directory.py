"""The directory does at once what inserting labels one by one into an OrderedDict does."""

import numpy as np
import pytest

from sharded_fc.pool.directory import FREE, Change, Directory
from tests.sharded_fc.pool.literal import LiteralDirectory


def features(directory: Directory) -> np.ndarray:
    """Numbers in place of features: which insertion wrote each row last."""
    return np.full((2, len(directory)), -1)


def state(directory: Directory) -> tuple[list[int], list[int], list[int], int]:
    return (
        directory.label.tolist(),
        directory.last_use.tolist(),
        directory.next_row.tolist(),
        directory.num_inserted,
    )


def insert(directory: Directory, written: np.ndarray, change: Change) -> None:
    written[change.row, change.written] = directory.num_inserted + change.source
    directory.apply(change)


def insert_literally(
    directory: LiteralDirectory, written: np.ndarray, labels: np.ndarray, first: int
) -> set[int]:
    places, renewed = directory.insert(labels.tolist())
    for number, (slot, row) in enumerate(places, first):
        written[row, slot] = number
    return renewed


def assert_same(directory: Directory, literal: LiteralDirectory) -> None:
    by_use = np.argsort(directory.last_use[: directory.filled])
    found = [(int(directory.label[slot]), int(slot)) for slot in by_use]
    assert found == list(literal.slot_of.items())
    assert directory.next_row[: directory.filled].tolist() == literal.next_row


@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_random_batches_equal_an_ordered_dict(seed: int):
    """A thousand batches a seed, over pools from 1 to 40 slots and batches from 1 to 60 labels.

    Few labels make batches full of repeats and of people who come back; many evict everybody.
    """
    generator = np.random.default_rng(seed)
    for _ in range(50):
        slots = int(generator.integers(1, 41, size=2).max())  # few small ones, which are slow
        people = int(generator.integers(1, 90))
        directory, literal = Directory(slots), LiteralDirectory(slots)
        ours, theirs = features(directory), features(directory)
        for _ in range(20):
            labels = generator.integers(people, size=int(generator.integers(1, 61)))
            asked = generator.integers(people, size=20)
            change, before = directory.plan(labels), state(directory)
            after = directory.find(asked, after=change)
            assert state(directory) == before, "a plan changed the directory"
            renewed = insert_literally(literal, theirs, labels, directory.num_inserted)
            assert set(change.renewed.tolist()) == renewed
            insert(directory, ours, change)
            assert_same(directory, literal)
            assert np.array_equal(ours, theirs)
            wanted = [literal.slot_of.get(label, FREE) for label in asked.tolist()]
            assert after.tolist() == wanted
        assert directory.find(np.arange(people)).tolist() == [
            literal.slot_of.get(label, FREE) for label in range(people)
        ]


@pytest.mark.parametrize("seed", range(2))
def test_a_directory_of_a_thousand_equals_an_ordered_dict(seed: int):
    """Large enough that what it looks up is now and then put in order, and mostly is not."""
    generator = np.random.default_rng(seed)
    slots = int(generator.integers(500, 1500))
    people = int(slots * generator.uniform(1.05, 4.0))
    directory, literal = Directory(slots), LiteralDirectory(slots)
    for _ in range(150):
        labels = generator.integers(people, size=int(generator.integers(1, slots // 4)))
        directory.apply(directory.plan(labels))
        literal.insert(labels.tolist())
        assert_same(directory, literal)
        wanted = [literal.slot_of.get(label, FREE) for label in range(people)]
        assert directory.find(np.arange(people)).tolist() == wanted


def test_somebody_evicted_and_seen_again_in_one_batch_is_new():
    """With 3 slots, 1 is the oldest; 4 takes its slot before 1 comes back and takes that of 2."""
    directory = Directory(3)
    directory.apply(directory.plan(np.array([1, 2, 3])))
    change = directory.plan(np.array([4, 1, 3]))
    assert change.label.tolist() == [4, 1, 3]
    assert change.row.tolist() == [0, 0, 1]
    assert change.renewed.tolist() == [2]


def test_a_batch_with_more_newcomers_than_slots_leaves_the_last_ones():
    directory = Directory(3)
    directory.apply(directory.plan(np.arange(8)))
    assert directory.label.tolist() == [6, 7, 5]
    assert directory.filled == 3


def test_rows_alternate_from_a_newcomers_first_to_its_second():
    directory = Directory(2)
    rows = []
    for _ in range(4):
        change = directory.plan(np.array([7]))
        rows.append((change.row.tolist(), change.renewed.tolist()))
        directory.apply(change)
    assert rows == [([0], []), ([1], [0]), ([0], [0]), ([1], [0])]


def test_a_slot_given_to_a_newcomer_counts_as_seen_again_for_nobody():
    """7 is seen again, then the only slot goes to 8: row 1 still holds 7's feature."""
    directory = Directory(1)
    directory.apply(directory.plan(np.array([7])))
    assert directory.plan(np.array([7, 8])).renewed.tolist() == []


def test_a_restored_directory_goes_on_alike():
    generator = np.random.default_rng(0)
    directory = Directory(20)
    for _ in range(5):
        directory.apply(directory.plan(generator.integers(50, size=16)))
    other = directory.copy()
    for _ in range(5):
        labels = generator.integers(50, size=16)
        directory.apply(directory.plan(labels))
        other.apply(other.plan(labels))
    assert state(other) == state(directory)


@pytest.mark.parametrize(
    "damage",
    [
        {"label": [3, 3, -1]},  # one person in two slots
        {"label": [-1, 3, 4]},  # a hole
        {"last_use": [1, 1, -1]},
        {"last_use": [1, 9, -1]},  # later than the last insertion
        {"next_row": [0, 2, 0]},
        {"label": [3, 4], "last_use": [1, 0], "next_row": [0, 1]},
    ],
    ids=str,
)
def test_a_directory_that_no_insertion_leads_to_is_refused(damage: dict[str, list[int]]):
    sound = {"label": [3, 4, -1], "last_use": [1, 0, -1], "next_row": [0, 1, 0]}
    Directory(3).restore(**{k: np.array(v) for k, v in sound.items()}, num_inserted=2)
    bad = {name: np.array(value) for name, value in (sound | damage).items()}
    with pytest.raises(ValueError, match="no directory of 3 slots"):
        Directory(3).restore(**bad, num_inserted=2)


def test_a_pool_without_slots_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Directory(0)
