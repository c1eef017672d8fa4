from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.pairs_file import NumberedImages, even_folds, read_pairs


def written(tmp_path, text):
    path = tmp_path / "pairs.txt"
    path.write_text(text)
    return path


def lines(folds, each, *, header):
    """`folds` times `each` same and `each` different pairs."""
    fold = [f"p{k}\t1\t2" for k in range(each)] + [f"p{k}\t1\tq{k}\t1" for k in range(each)]
    return "\n".join([header, *(fold * folds)]) + "\n"


def test_pairs_keep_their_order_names_numbers_and_lines(tmp_path):
    pairs = read_pairs(written(tmp_path, "1\t1\nAnn_Lee\t1\t12\nAnn_Lee\t3\tBob\t0004\n"))
    assert [(p.first, p.second, p.same, p.line) for p in pairs] == [
        (("Ann_Lee", 1), ("Ann_Lee", 12), True, 2),
        (("Ann_Lee", 3), ("Bob", 4), False, 3),
    ]


def test_names_may_hold_spaces_where_tabs_separate_and_spaces_may_separate_otherwise(tmp_path):
    (first, _) = read_pairs(written(tmp_path, "1\nAnn Lee\t1\t2\nAnn Lee\t1\tBob\t1\n"))
    assert first.first == ("Ann Lee", 1)
    (first, second) = read_pairs(written(tmp_path, "1\n\nAnn 1 2  \nAnn 1 Bob 3\n"))
    assert (first.second, second.second) == (("Ann", 2), ("Bob", 3))


def test_the_folds_of_a_file_with_several_are_kept(tmp_path):
    pairs = read_pairs(written(tmp_path, lines(10, 3, header="10\t3")))
    assert [p.fold for p in pairs] == [k for k in range(10) for _ in range(6)]


@pytest.mark.parametrize("header", ["1\t295", "295"])
def test_a_single_list_is_cut_into_ten_balanced_folds(tmp_path, header):
    pairs = read_pairs(written(tmp_path, lines(1, 295, header=header)))
    for same in (True, False):
        folds = [p.fold for p in pairs if p.same == same]
        assert folds == sorted(folds)
        assert np.bincount(folds).tolist() == [30] * 5 + [29] * 5


def test_fewer_pairs_than_ten_get_a_fold_each(tmp_path):
    pairs = read_pairs(written(tmp_path, lines(1, 3, header="3")))
    assert [p.fold for p in pairs] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with LFW's header"),
        ("Ann\t1\t2\n", "does not begin with LFW's header"),
        ("ten\t3\n", "does not begin with LFW's header"),
        ("0\n", "does not begin with LFW's header"),
        ("1\t2\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "1 same and 1 different pairs, but its header"),
        ("1\nAnn\t1\t2\nAnn\t1\tBob\tx\n", r"line 3: expected `name i j`"),
        ("1\nAnn\t1\t1\nAnn\t1\tBob\t1\n", r"line 2: expected `name i j`"),
        ("1\nAnn\t1\t2\nAnn\t1\tAnn\t2\n", r"line 3: expected `name i j`"),
        ("1\nAnn\t1\t2\nAnn\t1\tBob\t1\t9\n", r"line 3: expected `name i j`"),
        ("1\nAnn\t-1\t2\nAnn\t1\tBob\t1\n", r"line 2: expected `name i j`"),
        ("2\t1\nA\t1\t2\nB\t1\t2\nA\t1\tB\t1\nA\t2\tB\t1\n", "its 2 folds do not hold 1 same"),
    ],
)
def test_a_damaged_pairs_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_pairs_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the pairs file .*/none: No such file"):
        read_pairs(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"the pairs file .*/binary is not UTF-8 text"):
        read_pairs(tmp_path / "binary")


@pytest.mark.parametrize(("count", "folds"), [(295, 10), (10, 10), (7, 3), (3, 1)])
def test_even_folds_are_those_of_scikit_learns_kfold(count, folds):
    # KFold's documentation: the first n % k folds have n // k + 1, the others n // k.
    assert np.bincount(even_folds(count, folds)).tolist() == [
        count // folds + (k < count % folds) for k in range(folds)
    ]


IMAGES = {
    "Ann_Lee": ("Ann_Lee_0001.jpg", "Ann_Lee_0012.png", "cover.jpg"),
    "Bob": ("Bob_1.jpg", "Bob_01.png", "x_2.jpg"),
}


def test_an_image_is_found_by_its_number_whatever_the_zeros_and_the_suffix():
    images = NumberedImages(IMAGES, source=Path("faces"))
    assert images.find("Ann_Lee", 12) == ("Ann_Lee", "Ann_Lee_0012.png")
    assert images.find("Bob", 2) == ("Bob", "x_2.jpg")


@pytest.mark.parametrize(
    ("person", "number", "message"),
    [
        ("Ann_Lee", 2, "image 2 of 'Ann_Lee' in faces: no such file"),
        ("Eve", 1, "image 1 of 'Eve' in faces: no such file"),
        ("../../etc", 1, "no such file"),
        ("Bob", 1, "image 1 of 'Bob' in faces: both Bob_1.jpg and Bob_01.png"),
    ],
)
def test_an_image_that_is_missing_or_ambiguous_is_named(person, number, message):
    with pytest.raises(DataError, match=message):
        NumberedImages(IMAGES, source=Path("faces")).find(person, number)
