"""Which old classes a new class is made of: read, written, checked, and built from pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.identity_map import IdentityMap


def as_lists(identities):
    return [identities.sources(label) for label in range(identities.num_new)]


def read(tmp_path, text, *, num_old=5):
    path = tmp_path / "map.csv"
    path.write_text(text)
    return IdentityMap.read(path, num_old=num_old)


@st.composite
def sources(draw):
    num_old = draw(st.integers(1, 8))
    classes = st.lists(st.integers(0, num_old - 1), unique=True, max_size=4).map(sorted).map(tuple)
    return num_old, draw(st.lists(classes, min_size=1, max_size=10))


@given(drawn=sources())
def test_what_is_written_is_read_again(tmp_path_factory, drawn):
    num_old, classes = drawn
    identities = IdentityMap.of(classes, num_old=num_old)
    path = tmp_path_factory.mktemp("maps") / "map.csv"
    identities.write(path)
    assert as_lists(identities) == classes
    assert as_lists(IdentityMap.read(path, num_old=num_old)) == classes
    assert identities.fresh.tolist() == [c for c, old in enumerate(classes) if not old]
    assert [p.name for p in path.parent.iterdir()] == ["map.csv"]


def test_rows_of_a_file_may_stand_in_any_order(tmp_path):
    identities = read(tmp_path, "new,old\n2,\n0,4\n1,3\n0,1\n")
    assert as_lists(identities) == [(1, 4), (3,), ()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("old,new\n0,0\n", "the first line must be new,old"),
        ("", "the first line must be new,old"),
        ("new,old\n", "the map has no new class"),
        ("new,old\n0,1\n1,x\n", "line 3: '1,x' is not a new class, a comma, and an old class"),
        ("new,old\n0\n", "line 2: '0' is not"),
        (f"new,old\n0,{1 << 70}\n", "line 2: .* is not"),
        ("new,old\n0,5\n", "old class 5 does not exist: the saved rows are of 5 classes, 0 to 4"),
        ("new,old\n0,-1\n", "old class -1 does not exist"),
        ("new,old\n-1,0\n0,1\n", "new class -1 is below 0"),
        ("new,old\n0,1\n3,2\n1,0\n", "new class 2 is missing below new class 3"),
        ("new,old\n1,1\n", "new class 0 is missing below new class 1"),
        ("new,old\n0,1\n0,1\n", "old class 1 is twice in new class 0"),
        ("new,old\n0,1\n1,\n1,\n", "new class 1 is twice without an old class"),
        ("new,old\n0,1\n0,\n", "new class 0 has a row without an old class beside old class 1"),
    ],
)
def test_a_wrong_file_is_refused_with_what_to_change(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text)
    assert "map.csv" in str(error.value)


def test_connected_classes_become_one_and_are_numbered_by_the_lowest():
    identities = IdentityMap.merging([(6, 2), (4, 3), (2, 4)], num_old=8)
    assert as_lists(identities) == [(0,), (1,), (2, 3, 4, 6), (5,), (7,)]


@given(st.integers(1, 12), st.data())
def test_merging_keeps_every_class_once_and_joins_exactly_what_is_connected(num_old, data):
    label = st.integers(0, num_old - 1)
    pairs = data.draw(st.lists(st.tuples(label, label), max_size=12))
    groups = as_lists(IdentityMap.merging(pairs, num_old=num_old))
    expected = [{c} for c in range(num_old)]
    for a, b in pairs:
        joined = next(g for g in expected if a in g) | next(g for g in expected if b in g)
        expected = [g for g in expected if not g & joined] + [joined]
    assert groups == sorted(tuple(sorted(g)) for g in expected)


def test_merging_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="old class 8 does not exist"):
        IdentityMap.merging([(1, 8)], num_old=8)


def test_an_error_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "map.csv"
    path.write_text("before")
    identities = IdentityMap.of([(0,), (1,)], num_old=2)
    monkeypatch.setattr(IdentityMap, "fresh", property(lambda self: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        identities.write(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["map.csv"]
