"""What packing does to bring faces upright, and which images it then leaves out.

Points that are no face's (all in one place, not finite, left and right swapped: see
`align.LEAST_FIT`) count as none. An image without points is dropped, or kept: scaled until it
covers the crop, and its middle taken, so that all images of a dataset have one size.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from data_pipeline.align import FRONTAL_FIT, Crop, centred, fit_similarity
from data_pipeline.errors import DataError
from data_pipeline.landmarks import FileLandmarks, Images, Landmarks, Names
from data_pipeline.sources import Source, for_workers

NO_LANDMARKS = "no landmarks of a face"
OUTSIDE = "its landmarks lie outside of it; are they of another version of the image?"

_NAMES = 4096  # looked up at once

WithoutLandmarks = Literal["keep", "drop"]
Transform = Float64[np.ndarray, "2 3"]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where points come from, what becomes of them, and of images without any."""

    landmarks: Landmarks
    crop: Crop
    without_landmarks: WithoutLandmarks = "drop"

    @classmethod
    def of_file(
        cls,
        landmarks: Path | str,
        *,
        crop: str = "112",
        without_landmarks: WithoutLandmarks = "drop",
    ) -> "Alignment":
        """By the landmarks of a file; `DataError` if it cannot be read or the crop is unknown."""
        size = Crop.of(crop)
        return cls(
            landmarks=FileLandmarks.open(landmarks), crop=size, without_landmarks=without_landmarks
        )

    def options(self) -> dict[str, str]:
        """What the bytes of a packed dataset depend on."""
        return {
            "landmarks": self.landmarks.version,
            "crop": str(self.crop),
            "without_landmarks": self.without_landmarks,
        }

    def listed(self, source: Source) -> Source:
        """The source as it is to be listed: without images that a file already tells to drop."""
        if isinstance(self.landmarks, FileLandmarks):
            return LandmarkedSource(
                source=source, landmarks=self.landmarks, drop=self.without_landmarks == "drop"
            )
        return source

    def transforms(self, names: Names, images: Images) -> list[Transform | str]:
        """What brings each image to its crop, or the reason why it is left out."""
        points = self.landmarks.find(names, images)
        fitted = fit_similarity(points, self.crop.face)
        sizes = np.array([image.shape[1::-1] for image in images]).reshape(-1, 2)
        middle = points.mean(axis=1)
        inside = ((middle >= 0) & (middle <= sizes - 1)).all(axis=1)
        return [
            self._of_no_points(*size) if not usable else matrix if within else OUTSIDE
            for usable, within, matrix, size in zip(
                fitted.usable, inside, fitted.matrix, sizes[:, ::-1].tolist(), strict=True
            )
        ]

    def _of_no_points(self, height: int, width: int) -> Transform | str:
        if self.without_landmarks == "drop":
            return NO_LANDMARKS
        return centred(height, width, self.crop)


@dataclass(frozen=True, kw_only=True)
class LandmarkedSource:
    """A source that is aligned by a file: it counts images without points, and may drop them."""

    source: Source
    landmarks: FileLandmarks
    drop: bool
    _counts: Counter[str] = field(default_factory=Counter, compare=False)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(identity, image) of the images that are to be packed.

        Raises:
            DataError: a row of the file fits two images, none fits any, or none shows a face from
                the front, as where points are in another order.
        """
        counts = Counter[str]()
        used = np.zeros(len(self.landmarks), np.bool_)
        best = 0.0
        example = ("", "")
        stream = iter(self.source)
        while names := list(islice(stream, _NAMES)):
            example = names[0]
            rows = self.landmarks.rows(names)
            _use(used, rows, names)
            # Any crop will do: the faces of all have the same shape.
            fitted = fit_similarity(self.landmarks.points(rows), Crop(112, 112).face)
            best = max(best, float(fitted.fit.max()))
            counts["images_without_landmarks"] += int((rows < 0).sum())
            counts["images_with_degenerate_landmarks"] += int(((rows >= 0) & ~fitted.usable).sum())
            keep = fitted.usable | (not self.drop)
            yield from (name for name, kept in zip(names, keep.tolist(), strict=True) if kept)
        if not used.any():
            raise DataError(
                "the landmarks are of no image of the source, whose names are like "
                f"{'/'.join(example)!r}; give their paths as `<identity>/<image>` or `<image>`"
            )
        if best < FRONTAL_FIT:
            raise DataError(
                f"none of {used.sum()} landmarks look like a face seen from the front; are they x "
                "and y of each point in turn, and is left what is left in the image?"
            )
        counts["landmarks_without_image"] = int((~used).sum())
        self._counts.clear()
        self._counts.update(counts)

    def read(self, identity: str, image: str) -> bytes:
        """The encoded image."""
        return self.source.read(identity, image)

    def counts(self) -> Mapping[str, int]:
        """What the source counts, and after listing the images without points."""
        return {**self.source.counts(), **self._counts}

    def without_listing(self) -> Source:
        """The source alone, for reading."""
        return for_workers(self.source)


def _use(used: Bool[np.ndarray, " rows"], rows: Int64[np.ndarray, " images"], names: Names) -> None:
    """Note which rows belong to images; one that belonged to another image is refused."""
    found = rows[rows >= 0]
    first = np.unique(found, return_index=True)[1]
    again = np.setdiff1d(np.arange(len(found)), first)
    taken = np.concatenate((np.flatnonzero(used[found]), again))
    if len(taken):
        name = names[int(np.flatnonzero(rows >= 0)[taken[0]])]
        raise DataError(
            f"one entry of the landmarks fits several images, {'/'.join(name)!r} among them; give "
            "paths as `<identity>/<image>`"
        )
    used[found] = True
