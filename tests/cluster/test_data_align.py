"""The options of `facescale data pack` that bring faces upright."""

import pytest

from cluster.data_align import alignment_of
from data_pipeline.align import FACE_112, Crop
from data_pipeline.errors import DataError


@pytest.fixture
def landmarks(tmp_path):
    file = tmp_path / "points.txt"
    file.write_text(f"a/1.jpg {' '.join(map(str, FACE_112.ravel()))}\n")
    return file


def test_images_stay_as_they_are_without_landmarks():
    assert alignment_of(None, None, "drop") is None


def test_a_size_without_landmarks_is_refused():
    with pytest.raises(DataError, match="to align to 112x96, give a file of landmarks"):
        alignment_of(None, "112x96", "drop")


@pytest.mark.parametrize(
    ("align", "crop"),
    [(None, Crop(112, 112)), ("112x96", Crop(112, 96)), ("128", Crop(128, 128))],
)
def test_crops_have_the_size_that_is_asked_for(landmarks, align, crop):
    for rule in ("keep", "drop"):
        alignment = alignment_of(landmarks, align, rule)
        assert alignment is not None
        assert (alignment.crop, alignment.without_landmarks) == (crop, rule)


def test_a_size_for_which_no_face_is_known_is_refused(landmarks):
    with pytest.raises(DataError, match="nobody has said where a face lies in a crop of 90 x 90"):
        alignment_of(landmarks, "90", "drop")
