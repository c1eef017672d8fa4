"""Packing with faces brought upright: the crops, the counts and a pack that goes on."""

import numpy as np
import pytest

from data_pipeline.align import FACE_112, Crop
from data_pipeline.alignment import Alignment
from data_pipeline.errors import DataError
from data_pipeline.landmarks import DetectedLandmarks
from data_pipeline.pack import pack
from tests.data_pipeline.pictures import MemorySource, contents, encoded, pixels

NAMES = [(person, f"{k}.png") for person in ("ann", "bob") for k in range(20)]
FACES = MemorySource({name: encoded(pixels(i, 160), "PNG") for i, name in enumerate(NAMES)})


def aligned(folder, names, crop="112"):
    """An alignment that takes the middle of each picture."""
    points = " ".join(map(str, np.ravel(FACE_112 + 24)))
    (folder / "points.txt").write_text("".join(f"{p}/{k} {points}\n" for p, k in names))
    return Alignment.of_file(folder / "points.txt", crop=crop)


@pytest.mark.parametrize("workers", [1, 2])
def test_images_with_landmarks_are_packed_in_one_size_and_others_counted(tmp_path, workers):
    dataset = pack(FACES, tmp_path / "out", alignment=aligned(tmp_path, NAMES[3:]), workers=workers)
    assert dataset.image_size == (112, 112)
    assert dataset.num_samples == len(NAMES) - 3
    assert dataset.source["images_without_landmarks"] == 3
    assert dataset.source["unreadable_images"] == 0
    dataset.verify()


class Interrupted(MemorySource):
    def read(self, identity, image):
        if (identity, image) == ("bob", "11.png"):
            raise KeyboardInterrupt
        return super().read(identity, image)


def test_an_aligned_pack_goes_on_with_the_same_landmarks_and_crop_alone(tmp_path):
    pack(FACES, tmp_path / "whole", alignment=aligned(tmp_path, NAMES), shard_bytes=1)
    with pytest.raises(KeyboardInterrupt):
        pack(
            Interrupted(FACES.images),
            tmp_path / "out",
            alignment=aligned(tmp_path, NAMES),
            shard_bytes=1,
        )
    for other, what in (
        (aligned(tmp_path, NAMES, crop="128"), "crop"),
        (aligned(tmp_path, reversed(NAMES)), "landmarks"),
        (None, "landmarks"),
    ):
        with pytest.raises(DataError, match=f"an unfinished pack of {what}"):
            pack(FACES, tmp_path / "out", alignment=other, shard_bytes=1)
    pack(FACES, tmp_path / "out", alignment=aligned(tmp_path, NAMES), shard_bytes=1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Reddish:
    """Finds a face in the middle of every image with more red than blue."""

    version = "reddish 1"

    def detect(self, images):
        sure = np.array([float(image[..., 0].mean() > image[..., 2].mean()) for image in images])
        return np.array([FACE_112 + 19] * len(images)), sure


@pytest.mark.parametrize("workers", [1, 2])
def test_images_in_which_a_detector_finds_no_face_are_counted(tmp_path, workers):
    red, blue = ([value, 90, 200 - value] for value in (150, 50))
    images = {
        (name, f"{i}.png"): encoded(np.full((150, 150, 3), colour, np.uint8), "PNG")
        for name, colour in (("ann", red), ("bob", blue))
        for i in range(3)
    }
    detecting = Alignment(landmarks=DetectedLandmarks(Reddish()), crop=Crop.of("112"))
    dataset = pack(MemorySource(images), tmp_path / "out", alignment=detecting, workers=workers)
    assert (dataset.num_samples, dataset.num_identities) == (3, 1)
    assert dataset.source["images_without_face"] == 3
    assert dataset.source["unreadable_images"] == 0
    nobody = {name: content for name, content in images.items() if name[0] == "bob"}
    with pytest.raises(DataError, match="no image of the source has landmarks"):
        pack(MemorySource(nobody), tmp_path / "none", alignment=detecting)
