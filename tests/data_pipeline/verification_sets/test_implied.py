import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.verification_sets.implied import folds_in_order, implied_identities


def implied(*pairs):
    first, second, same = (np.array(column) for column in zip(*pairs, strict=True))
    return implied_identities(first, second, same.astype(np.bool_))


def faces(found):
    """(image, identity) of both faces of each pair."""
    pairs = zip(found.first, found.second, strict=True)
    return [tuple((found.image[f], found.identity[f]) for f in pair) for pair in pairs]


def test_same_pairs_connect_images_to_people_numbered_as_they_appear():
    found = implied((7, 3, True), (9, 3, False), (3, 5, True), (9, 1, True))
    assert found.image.tolist() == [1, 3, 5, 7, 9]
    assert faces(found) == [((7, 0), (3, 0)), ((9, 1), (3, 0)), ((3, 0), (5, 0)), ((9, 1), (1, 1))]


def test_a_list_that_contradicts_itself_gets_images_of_its_own_for_each_pair():
    # 0 and 2 are connected by the first two pairs, and the third says that they differ.
    found = implied((0, 1, True), (1, 2, True), (0, 2, False))
    assert faces(found) == [((0, 0), (1, 0)), ((1, 1), (2, 1)), ((0, 2), (2, 3))]
    assert len(found.image) == 6


def test_an_image_that_is_paired_with_itself_is_one_face():
    found = implied((4, 4, True), (4, 2, False))
    assert faces(found) == [((4, 0), (4, 0)), ((4, 0), (2, 1))]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()).filter(
            lambda pair: pair[2] or pair[0] != pair[1]
        ),
        min_size=1,
        max_size=30,
    )
)
def test_identities_never_contradict_a_pair_and_faces_show_the_images_listed(pairs):
    found = implied(*pairs)
    for (first, second, same), (a, b) in zip(pairs, faces(found), strict=True):
        assert (a[0], b[0]) == (first, second)
        assert (a[1] == b[1]) == same
    listed = list(zip(found.identity.tolist(), found.image.tolist(), strict=True))
    assert len(set(listed)) == len(listed)
    assert set(found.identity.tolist()) == set(range(found.identity.max() + 1))


def test_folds_are_tenths_of_the_same_and_of_the_different_pairs_in_order():
    blocks = np.repeat([True, False] * 10, 300)  # LFW's order: fold by fold
    assert folds_in_order(blocks).tolist() == np.repeat(np.arange(10), 600).tolist()
    halves = np.repeat([True, False], 3000)  # CALFW's: all same pairs first
    assert folds_in_order(halves).tolist() == np.tile(np.repeat(np.arange(10), 300), 2).tolist()
    assert folds_in_order(np.array([True, True])).tolist() == [0, 1]
