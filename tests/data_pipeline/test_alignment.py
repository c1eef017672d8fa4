import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_pipeline.align import FACE_112, Crop, fit_similarity, warp
from data_pipeline.alignment import NO_LANDMARKS, OUTSIDE, Alignment
from data_pipeline.errors import DataError
from data_pipeline.jpeg import Jpeg, Preparation, as_jpeg
from data_pipeline.landmarks import DetectedLandmarks
from data_pipeline.sources import for_workers
from tests.data_pipeline.pictures import MemorySource, encoded, jpeg, pixels

FACE_IN_160 = FACE_112 + 24
# What encoding smooth crops at quality 95 changes (test_jpeg), and 1 for the decoder's rounding.
LOSS = 14


def alignment(tmp_path, rows, **options):
    lines = (" ".join((name, *map(str, np.ravel(points)))) for name, points in rows.items())
    (tmp_path / "points.txt").write_text("\n".join(lines))
    return Alignment.of_file(tmp_path / "points.txt", **options)


def prepared(source, aligned):
    preparation = Preparation(source=source, max_pixels=10**6, alignment=aligned)
    return preparation.prepare_all(list(source))


def decoded(made):
    assert isinstance(made, Jpeg)
    image = Image.open(io.BytesIO(made.content))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert (image.height, image.width) == (made.height, made.width)
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("crop", ["112", "112x96", "128"])
def test_a_face_comes_to_its_place_in_the_crop(tmp_path, crop):
    source = MemorySource({("ann", "1.png"): encoded(pixels(1, 160), "PNG")})
    [made] = prepared(source, alignment(tmp_path, {"ann/1.png": FACE_IN_160}, crop=crop))
    size = Crop.of(crop)
    left, upper = np.rint(FACE_IN_160[0] - size.face[0]).astype(int)
    expected = pixels(1, 160)[upper : upper + size.height, left : left + size.width]
    assert abs(decoded(made) - expected).max() <= LOSS


def test_points_count_in_the_image_as_it_is_looked_at(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to see it upright"
    lying = np.rot90(pixels(2, 160))
    source = MemorySource(
        {("ann", "1.png"): encoded(np.ascontiguousarray(lying), "PNG", exif=exif)}
    )
    [made] = prepared(source, alignment(tmp_path, {"ann/1.png": FACE_IN_160}))
    assert abs(decoded(made) - pixels(2, 160)[24:136, 24:136]).max() <= LOSS


def test_images_are_prepared_the_same_alone_and_together(tmp_path, monkeypatch):
    images = {("a", f"{i}.jpg"): jpeg(i, 130 + i) for i in range(7)}
    images["b", "cut.jpg"] = jpeg(9, 150)[:500]
    images["c", "none.jpg"] = b""
    images["d", "last.jpg"] = jpeg(8, 150)
    rows = {"/".join(name): FACE_112 + i for i, name in enumerate(images)}
    aligned = alignment(tmp_path, rows)
    together = prepared(MemorySource(images), aligned)
    preparation = Preparation(source=MemorySource(images), max_pixels=10**6, alignment=aligned)
    assert [preparation.prepare(*name) for name in images] == together
    assert [isinstance(made, Jpeg) for made in together] == [True] * 7 + [False, False, True]
    assert together[8] == "nothing there"
    monkeypatch.setattr("data_pipeline.jpeg.MAX_PIXELS", 40_000)  # two or three at once
    assert prepared(MemorySource(images), aligned) == together


def test_a_crop_that_is_one_already_keeps_its_bytes(tmp_path):
    source = MemorySource({("a", "1.jpg"): jpeg(1, 112), ("a", "2.jpg"): jpeg(2, 140)})
    aligned = alignment(tmp_path, {"a/2.jpg": FACE_112 + 9}, without_landmarks="keep")
    first, second = prepared(source, aligned)
    assert first == as_jpeg(jpeg(1, 112))
    assert decoded(second).shape == (112, 112, 3)


def test_images_without_landmarks_are_kept_whole_or_dropped(tmp_path):
    wide = encoded(pixels(1, 224)[:112], "PNG")
    source = MemorySource({("a", "wide.png"): wide, ("b", "1.png"): encoded(pixels(2, 160), "PNG")})
    keeping = alignment(tmp_path, {"b/1.png": FACE_IN_160}, without_landmarks="keep")
    kept, _ = prepared(source, keeping)
    assert abs(decoded(kept) - pixels(1, 224)[:112, 56:168]).max() <= LOSS
    dropping = replace(keeping, without_landmarks="drop")
    assert prepared(source, dropping)[0] == NO_LANDMARKS
    assert list(keeping.listed(source)) == list(source)
    assert list(dropping.listed(source)) == [("b", "1.png")]


def test_landmarks_of_another_version_of_an_image_are_no_crop(tmp_path):
    source = MemorySource({("a", "1.jpg"): jpeg(1, 100), ("a", "2.jpg"): jpeg(2, 160)})
    rows = {"a/1.jpg": FACE_112 + 300, "a/2.jpg": FACE_112 - 80}
    for rule in ("keep", "drop"):
        assert prepared(source, alignment(tmp_path, rows, without_landmarks=rule)) == [OUTSIDE] * 2


def people_and_points():
    names = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("c", "1")]
    rows = {
        "a/1": FACE_112,
        "a/2": np.zeros((5, 2)),
        "b/1": np.full((5, 2), np.nan),
        "b/2": FACE_112[[1, 0, 2, 4, 3]],
        "d/1": FACE_112,
    }
    return MemorySource(dict.fromkeys(names, b"?")), rows


@pytest.mark.parametrize("rule", ["keep", "drop"])
def test_listing_counts_what_has_no_points_of_a_face(tmp_path, rule):
    source, rows = people_and_points()
    listed = alignment(tmp_path, rows, without_landmarks=rule).listed(source)
    for _ in range(2):
        assert list(listed) == (list(source) if rule == "keep" else [("a", "1")])
        assert listed.counts() == {
            "ignored_files": 2,  # the source's own
            "images_without_landmarks": 1,
            "images_with_degenerate_landmarks": 3,
            "landmarks_without_image": 1,
        }


def test_long_listings_are_looked_up_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.alignment._NAMES", 2)
    source, rows = people_and_points()
    listed = alignment(tmp_path, rows).listed(source)
    assert list(listed) == [("a", "1")]
    assert listed.counts()["images_with_degenerate_landmarks"] == 3


def test_workers_get_the_source_alone(tmp_path):
    source, rows = people_and_points()
    listed = alignment(tmp_path, rows).listed(source)
    assert listed.read("a", "1") == b"?"
    assert for_workers(listed) is source


@pytest.mark.parametrize("pieces", [1, 4096])
def test_a_row_that_fits_two_images_is_refused(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr("data_pipeline.alignment._NAMES", pieces)
    source = MemorySource({("a", "1.jpg"): b"?", ("b", "1.jpg"): b"?"})
    with pytest.raises(DataError, match=r"fits several images, 'b/1\.jpg' among them"):
        list(alignment(tmp_path, {"1.jpg": FACE_112}).listed(source))


def test_landmarks_of_other_images_are_refused(tmp_path):
    source = MemorySource({("a", "1.jpg"): b"?"})
    with pytest.raises(DataError, match="of no image of the source"):
        list(alignment(tmp_path, {"images/a/1.jpg": FACE_112}).listed(source))


def test_landmarks_in_another_order_are_refused(tmp_path):
    source = MemorySource({("a", "1.jpg"): b"?", ("a", "2.jpg"): b"?"})
    rows = {"a/1.jpg": FACE_112.T.reshape(5, 2), "a/2.jpg": FACE_112[[2, 0, 1, 3, 4]]}
    with pytest.raises(DataError, match="none of 2 landmarks look like a face"):
        list(alignment(tmp_path, rows).listed(source))


class Framed:
    """Finds the one face whose left eye is where the only red pixel is."""

    version = "framed 1"

    def detect(self, images):
        found, sure = [], []
        for image in images:
            red = np.argwhere((image == (255, 0, 0)).all(axis=2))
            sure.append(1.0 if len(red) else 0.0)
            found.append(FACE_112 - FACE_112[0] + (red[0, ::-1] if len(red) else 0))
        return np.array(found), np.array(sure)


def test_a_detector_works_while_images_are_prepared():
    marked = np.zeros((200, 150, 3), np.uint8)
    marked[70, 41] = (255, 0, 0)
    source = MemorySource(
        {("a", "1.png"): encoded(marked, "PNG"), ("a", "2.png"): encoded(marked[:60], "PNG")}
    )
    detecting = Alignment(landmarks=DetectedLandmarks(Framed()), crop=Crop.of("112"))
    assert detecting.listed(source) is source
    made, reason = prepared(source, detecting)
    matrix = fit_similarity((FACE_112 - FACE_112[0] + (41, 70))[None], FACE_112).matrix[0]
    expected = warp(marked, matrix, Crop.of("112")).astype(int)
    assert np.unravel_index(expected[..., 0].argmax(), (112, 112)) == (52, 38)
    # One bright pixel alone: JPEG keeps it in place, less exactly than smooth pictures.
    assert np.unravel_index(decoded(made)[..., 0].argmax(), (112, 112)) == (52, 38)
    assert reason == NO_LANDMARKS


def test_the_options_tell_whatever_the_crops_depend_on(tmp_path):
    one = alignment(tmp_path, {"a": FACE_112})
    options = [
        one.options(),
        replace(one, crop=Crop.of("128")).options(),
        replace(one, without_landmarks="keep").options(),
        alignment(tmp_path, {"a": FACE_112 + 1}).options(),
    ]
    assert len({tuple(option.items()) for option in options}) == 4
    assert options[0] == alignment(tmp_path, {"a": FACE_112}).options()
