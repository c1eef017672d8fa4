import numpy as np
import pytest

from data_pipeline import keyed, rows_on_disk
from data_pipeline.rows_on_disk import ShuffledRows, SortedRows

STRANGE = ["", "a", "a\nb", "Zoë", "\x00", "\x01", '"', "\\", "\u2028", "😀", "a b\t", "\ud800"]


@pytest.fixture
def few_rows(monkeypatch):
    """Seven rows in memory and three files at a time, so that a hundred rows need many merges."""
    monkeypatch.setattr(rows_on_disk, "ROWS", 7)
    monkeypatch.setattr(rows_on_disk, "FILES", 3)


def rows(count):
    generator = np.random.default_rng(count)
    names = generator.choice(STRANGE, (count, 2)).tolist()
    return [(first, second, i) for i, (first, second) in enumerate(names)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 21, 22, 200])
def test_rows_are_sorted_as_python_sorts_them(few_rows, tmp_path, count):
    given = rows(count)
    in_order = SortedRows(given, tmp_path / "sorted")
    assert len(in_order) == count
    assert list(in_order) == sorted(given)
    assert list(in_order) == sorted(given)  # again, from the beginning


@pytest.mark.parametrize("count", [0, 1, 7, 8, 200])
def test_shuffled_rows_follow_the_permutation_of_their_keys(few_rows, tmp_path, count):
    given = rows(count)
    shuffled = ShuffledRows(given, tmp_path / "shuffled", "purpose", 5, count=count)
    assert len(shuffled) == count
    expected = [(int(i), given[i]) for i in keyed.permutation(count, "purpose", 5)]
    assert list(shuffled.rows()) == expected


def test_shuffled_rows_can_be_read_from_any_place_and_at_some_places(few_rows, tmp_path):
    shuffled = ShuffledRows(rows(50), tmp_path / "shuffled", 1, count=50)
    everything = list(shuffled.rows())
    for start in range(51):
        assert list(shuffled.rows(start)) == everything[start:]
    places = np.array([0, 1, 17, 18, 33, 49])
    assert list(shuffled.at(places)) == [everything[i] for i in places]
    assert list(shuffled.at(places[:0])) == []
