import pickle
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import landmarks
from data_pipeline.align import FACE_112
from data_pipeline.errors import DataError
from data_pipeline.landmarks import DetectedLandmarks, FileLandmarks
from data_pipeline.processes import map_in_order

NOBODY = np.zeros((4, 4, 3), np.uint8)


def face(seed):
    return (FACE_112 + np.random.default_rng(seed).integers(0, 100, (5, 2))).astype(np.float32)


def file_of(tmp_path, rows):
    text = "".join(
        ",".join((name, *map(str, points.ravel().tolist()))) + "\n" for name, points in rows
    )
    (tmp_path / "points.csv").write_text(text)
    return tmp_path / "points.csv"


def test_an_image_has_the_points_of_its_path(tmp_path):
    names = [(f"person {i % 7}", f"{i}.jpg") for i in range(300)]
    rows = [("/".join(name), face(i)) for i, name in enumerate(names)]
    opened = FileLandmarks.open(file_of(tmp_path, rows))
    assert len(opened) == 300
    found = opened.find(names[::-1], [NOBODY] * 300)
    np.testing.assert_array_equal(found[::-1], [points for _, points in rows])


def test_an_image_without_a_row_has_no_points(tmp_path):
    opened = FileLandmarks.open(file_of(tmp_path, [("a/1.jpg", face(0)), ("b/1.jpg", face(1))]))
    found = opened.find([("a", "2.jpg"), ("b", "1.jpg"), ("zz", "1.jpg")], [NOBODY] * 3)
    assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_array_equal(found[1], face(1))


def test_a_path_may_be_the_images_name_alone(tmp_path):
    rows = [("7.jpg", face(0)), ("./x/8.jpg", face(1)), ("a/9.jpg", face(2)), ("9.jpg", face(3))]
    opened = FileLandmarks.open(file_of(tmp_path, rows))
    found = opened.find([("a", "7.jpg"), ("label", "x/8.jpg"), ("a", "9.jpg")], [NOBODY] * 3)
    np.testing.assert_array_equal(found, [face(0), face(1), face(2)])


def test_an_image_that_is_named_twice_is_refused(tmp_path):
    rows = [(f"{i}.jpg", face(i)) for i in range(50)] + [("./17.jpg", face(0))]
    with pytest.raises(DataError, match="entries 18 and 51 name the same image"):
        FileLandmarks.open(file_of(tmp_path, rows))


def test_a_repetition_is_found_where_pieces_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(landmarks, "_CHUNK", 1)
    path = file_of(tmp_path, [("a", face(0)), ("b", face(1)), ("a", face(2))])
    with pytest.raises(DataError, match="entries 1 and 3"):
        FileLandmarks.open(path)
    path = file_of(tmp_path, [("a", face(0)), ("b", face(1)), ("c", face(2))])
    found = FileLandmarks.open(path).find([("", "c"), ("", "a")], [NOBODY] * 2)
    np.testing.assert_array_equal(found, [face(2), face(0)])


def test_a_file_without_landmarks_is_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text('{"path": "a", "landmarks": null}\n')
    with pytest.raises(DataError, match="holds no landmarks"):
        FileLandmarks.open(tmp_path / "none.jsonl")


def test_points_too_large_for_the_table_are_not_finite(tmp_path):
    opened = FileLandmarks.open(file_of(tmp_path, [("a", np.full((5, 2), 1e300))]))
    assert np.isinf(opened.find([("", "a")], [NOBODY])).all()


def test_the_version_is_that_of_the_files_bytes(tmp_path):
    first = FileLandmarks.open(file_of(tmp_path, [("a", face(0))]))
    again = FileLandmarks.open(file_of(tmp_path, [("a", face(0))]))
    other = FileLandmarks.open(file_of(tmp_path, [("a", face(1))]))
    assert first.version == again.version != other.version


class Found:
    """A task for worker processes, which must find what this one does."""

    def __init__(self, opened):
        self.opened = opened

    def __call__(self, names):
        return self.opened.find(names, [NOBODY] * len(names))


def test_worker_processes_share_the_table(tmp_path):
    rows = [(f"{i}.jpg", face(i)) for i in range(40)]
    opened = FileLandmarks.open(file_of(tmp_path, rows))
    (tmp_path / "points.csv").unlink()
    tasks = [[("", name) for name, _ in rows[start : start + 10]] for start in (0, 10, 20, 30)]
    found = np.concatenate(list(map_in_order(Found(opened), tasks, workers=2)))
    np.testing.assert_array_equal(found, [points for _, points in rows])


def test_the_table_closes_with_its_last_user(tmp_path):
    before = open_files()
    opened = FileLandmarks.open(file_of(tmp_path, [("a", face(0))]))
    assert open_files() > before
    del opened
    assert open_files() == before


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


class Bright:
    """Finds a face at the brightest pixel, as sure as that is bright."""

    version = "bright 1"

    def detect(self, images):
        places = [np.unravel_index(image[..., 0].argmax(), image.shape[:2]) for image in images]
        sure = np.array([image.max() / 255 for image in images])
        return np.array([FACE_112 + place[::-1] for place in places]), sure


def test_a_detector_sees_the_pixels_and_is_believed_when_it_is_sure():
    images = [np.zeros((20, side, 3), np.uint8) for side in (30, 25, 40)]
    images[0][5, 7], images[1][2, 3] = 255, 100
    found = pickle.loads(pickle.dumps(DetectedLandmarks(Bright()))).find([("a", "b")] * 3, images)
    np.testing.assert_array_equal(found[0], FACE_112 + np.array((7, 5)))
    assert np.isnan(found[1:]).all()
    sure = DetectedLandmarks(Bright(), min_confidence=0.3)
    assert not np.isnan(sure.find([("a", "b")] * 3, images)[1]).any()
    assert sure.version != DetectedLandmarks(Bright()).version
