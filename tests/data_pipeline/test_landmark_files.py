import json

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from data_pipeline.align import FACE_112
from data_pipeline.errors import DataError
from data_pipeline.landmark_files import BATCH, five_of, read_landmarks

FACES = {
    "ann/1.jpg": FACE_112.round(2),
    "bob, jr./a b.png": (FACE_112 + 30).round(2),
    "ünï/x.jpg": (FACE_112 * 2).round(2),
}
NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
HEADER = [f"{name}_{axis}" for name in NAMES for axis in "xy"]


def numbers_of(points):
    return [str(number) for number in points.ravel().tolist()]


def lines(separator, *, quote="", tail=()):
    return "".join(
        separator.join((f"{quote}{path}{quote}", *numbers_of(points), *tail)) + "\n"
        for path, points in FACES.items()
    )


def read(path):
    found = {}
    for names, points in read_landmarks(path):
        found.update(zip(names, points, strict=True))
    return found


def assert_faces(path):
    found = read(path)
    assert list(found) == list(FACES)
    for name, points in FACES.items():
        np.testing.assert_array_equal(found[name], points)


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


FORMS = {
    "tabs.txt": lines("\t"),
    "named.tsv": "\t".join(["path", *HEADER]) + "\n" + lines("\t"),
    "commas.csv": lines(",", quote='"'),
    "named.csv": ",".join(["path", *HEADER]) + "\r\n" + lines(",", quote='"'),
    "ijb_name_5pts_score.txt": lines("\t", tail=("0.987",)),
    "celeba.txt": f"3\n{' '.join(HEADER)}\n" + lines("  ").replace("bob, jr.", "bob jr."),
    "spaces_score.txt": lines(" ", tail=("0.5",)).replace("bob, jr.", "bob jr."),
    "blank.csv": "\ufeff" + lines(",", quote='"') + "\n\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_text_is_read_however_it_is_separated(tmp_path, name):
    found = read(written(tmp_path / name, FORMS[name]))
    assert [path.replace(",", "") for path in found] == [path.replace(",", "") for path in FACES]
    for points, expected in zip(found.values(), FACES.values(), strict=True):
        np.testing.assert_array_equal(points, expected)


def test_a_first_path_with_spaces_is_no_line_of_names(tmp_path):
    text = "".join(f"a b {i}.jpg {' '.join(map(str, range(10)))}\n" for i in range(2))
    assert list(read(written(tmp_path / "f.txt", text))) == ["a b 0.jpg", "a b 1.jpg"]


def test_lines_of_json_hold_points_or_numbers(tmp_path):
    entries = [
        {"path": path, "landmarks": points.tolist() if i % 2 else points.ravel().tolist()}
        for i, (path, points) in enumerate(FACES.items())
    ]
    entries.insert(1, {"path": "nobody.jpg", "landmarks": None, "score": 0})
    entries.insert(2, {"path": "nobody.png", "landmarks": []})
    text = "\n\n".join(json.dumps(entry) for entry in entries)
    assert_faces(written(tmp_path / "faces.jsonl", text))


def test_parquet_holds_lists_or_a_column_a_number(tmp_path):
    path = list(FACES)
    nested = [points.tolist() for points in FACES.values()]
    flat = [points.ravel().tolist() for points in FACES.values()]
    columns = dict(zip(HEADER, np.array(flat).T.tolist(), strict=True))
    none = {"path": ["nobody.jpg", *path], "landmarks": [None, *flat]}
    for i, table in enumerate(
        (
            {"path": path, "landmarks": nested},
            {"score": [0.0] * len(path), "landmarks": flat, "path": path},
            {"path": path, **columns},
            {**columns, "path": path, "score": [1.0] * len(path)},
            none,
        )
    ):
        parquet.write_table(pyarrow.table(table), tmp_path / f"{i}.parquet")
        assert_faces(tmp_path / f"{i}.parquet")


def test_of_68_points_the_eyes_are_the_middle_of_their_corners(tmp_path):
    points = np.random.default_rng(0).uniform(0, 250, (68, 2)).round(3)
    expected = [
        (points[36] + points[39]) / 2,
        (points[42] + points[45]) / 2,
        points[30],
        points[48],
        points[54],
    ]
    for tail in ((), ("0.9",)):
        line = " ".join(("a.jpg", *numbers_of(points), *tail))
        np.testing.assert_array_equal(read(written(tmp_path / "f.txt", line))["a.jpg"], expected)
    entry = json.dumps({"path": "a.jpg", "landmarks": points.tolist()})
    np.testing.assert_array_equal(read(written(tmp_path / "f.jsonl", entry))["a.jpg"], expected)


@given(st.integers(1, 5))
def test_five_points_stay_as_they_are(rows):
    numbers = np.arange(rows * 11, dtype=np.float64).reshape(rows, 11)
    np.testing.assert_array_equal(five_of(numbers).reshape(rows, 10), numbers[:, :10])


def test_long_files_are_read_piece_by_piece(tmp_path):
    count = 2 * BATCH + 7
    text = "".join(f"{i}.jpg {' '.join(map(str, range(i, i + 10)))}\n" for i in range(count))
    sizes, seen = [], 0
    for names, points in read_landmarks(written(tmp_path / "f.txt", text)):
        assert names == [f"{i}.jpg" for i in range(seen, seen + len(names))]
        assert points[:, 0, 0].tolist() == list(range(seen, seen + len(names)))
        sizes.append(len(names))
        seen += len(names)
    assert sizes == [BATCH, BATCH, 7]


def test_points_that_are_not_finite_are_read_for_others_to_count(tmp_path):
    found = read(written(tmp_path / "f.csv", "a.jpg," + ",".join(["nan"] * 9 + ["inf"])))
    assert not np.isfinite(found["a.jpg"]).any()


TEN = ",".join(map(str, range(10)))
WRONG = {
    "short.csv": (f"a.jpg,{TEN}\nb.jpg,1,2,3\n", "row 2: expected a path and x and y"),
    "long.tsv": ("a.jpg\t" + "1\t" * 12 + "1\n", "row 1: expected"),
    "text.txt": ("a.jpg 1 2 three 4 5 6 7 8 9 10 11\n", "row 1: expected"),
    "later.txt": (f"a.jpg {TEN.replace(',', ' ')}\nb.jpg x\n", "row 2: expected"),
    "nameless.csv": (f",{TEN}\n", "row 1: expected"),
    "empty.txt": ("", "names no images"),
    "header.csv": (",".join(["path", *HEADER]) + "\n", "names no images"),
    "order.csv": (
        ",".join(["path", *(f"x{i}" for i in range(5)), *(f"y{i}" for i in range(5))])
        + f"\na.jpg,{TEN}\n",
        "x and y of each point in turn",
    ),
    "no_path.jsonl": ('{"landmarks": [1]}\n', "row 1: expected"),
    "number.jsonl": ('{"path": 7, "landmarks": [1]}\n', "row 1: expected"),
    "few.jsonl": ('{"path": "a", "landmarks": [1, 2]}\n', "row 1: expected"),
    "ragged.jsonl": ('{"path": "a", "landmarks": [[1, 2], [3]]}\n', "row 1: expected"),
    "list.jsonl": ("[1, 2]\n", "row 1: expected"),
    "deep.jsonl": ('{"path": "a", "landmarks": ' + "[" * 100_000, "row 1: expected"),
    "huge.jsonl": ('{"path": "a", "landmarks": [' + "9" * 400 + "]}", "row 1: expected"),
    "cut.jsonl": ('{"path": "a", "landm', "row 1: expected"),
    "text.parquet": ("PAR1 no", "is not a file of landmarks"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_row_is_refused_by_its_number(tmp_path, name):
    text, message = WRONG[name]
    with pytest.raises(DataError, match=message) as caught:
        read(written(tmp_path / name, text))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.csv").write_bytes(f"\xfc.jpg,{TEN}\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv is not UTF-8"):
        read(tmp_path / "latin.csv")
    with pytest.raises(DataError, match=r"cannot read .*none.csv: No such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"none.parquet"):
        read(tmp_path / "none.parquet")
    parquet.write_table(pyarrow.table({"image": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'path'"):
        read(tmp_path / "other.parquet")
    parquet.write_table(pyarrow.table({"path": ["a"], "x": [1.0]}), tmp_path / "few.parquet")
    with pytest.raises(DataError, match="x and y"):
        read(tmp_path / "few.parquet")


def test_damaged_files_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    entries = [{"path": path, "landmarks": points.tolist()} for path, points in FACES.items()]
    forms = {name: text.encode() for name, text in FORMS.items()}
    forms["faces.jsonl"] = "\n".join(map(json.dumps, entries)).encode()
    refused = []
    for name, whole in forms.items():
        for _ in range(60):
            content = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, len(content), rng.integers(1, 5))
            content[places] = rng.integers(0, 256, len(places))
            (tmp_path / name).write_bytes(content[: rng.integers(1, 2 * len(content))].tobytes())
            try:
                found = read(tmp_path / name)
            except DataError as error:
                refused.append(str(error))
            else:
                assert all(points.shape == (5, 2) for points in found.values())
    assert len(refused) > 100  # of 540: other bytes in names and digits often make a sound file
    assert not any("\n" in message for message in refused)
