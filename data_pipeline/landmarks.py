"""Where the five points of a face come from: a file, or a detector at work while packing.

A file's points are kept on disk, sorted by a hash of their paths, for there may be millions; worker
processes share them. A row belongs to the image that is `<identity>/<image>` in the source or,
where the file has no such row, to the one whose name alone is that path.
"""

import os
import tempfile
import weakref
from collections.abc import Sequence
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt64

from data_pipeline.errors import DataError
from data_pipeline.index import sha256_of
from data_pipeline.landmark_files import read_landmarks

Names = Sequence[tuple[str, str]]
"""(identity, image) of images, as their source names them."""
Images = Sequence[UInt8[np.ndarray, "_ _ 3"]]
"""RGB pixels of images, upright, of any sizes."""
Points = Float64[np.ndarray, "images 5 2"]
"""(x, y) of each image's points as `align` counts them; NaN where there are none."""

_CHUNK = 1 << 16  # rows held at once
_POINTS = np.dtype(("<f4", (5, 2)))  # float32: exact to 1/4096 of a pixel at 4,096 of them
_ROW = np.dtype([("key", "<u8"), ("number", "<u8"), ("points", _POINTS)])


@runtime_checkable
class Landmarks(Protocol):
    """Points of images that are being packed; must survive pickling to worker processes."""

    @property
    def version(self) -> str:
        """Changes with the points: an unfinished pack goes on only under the same one."""
        ...

    def find(self, names: Names, images: Images) -> Points:
        """The points of each image, which must depend on nothing but that image."""
        ...


@runtime_checkable
class LandmarkDetector(Protocol):
    """A model that finds faces; bring your own, and wrap it in `DetectedLandmarks`."""

    @property
    def version(self) -> str:
        """Name and version of the model and its settings."""
        ...

    def detect(self, images: Images) -> tuple[Points, Float64[np.ndarray, " images"]]:
        """The points of the one face that an image is of, and the detector's confidence.

        An image without a face has the confidence 0, whatever its points.
        """
        ...


class DetectedLandmarks:
    """Points that a detector finds while images are packed, where it is confident enough."""

    def __init__(self, detector: LandmarkDetector, *, min_confidence: float = 0.5) -> None:
        """The detector is pickled to each worker process."""
        self._detector = detector
        self._min_confidence = min_confidence

    @property
    def version(self) -> str:
        """The detector's, and the confidence asked for."""
        return f"{self._detector.version}, confidence {self._min_confidence:g}"

    def find(self, names: Names, images: Images) -> Points:
        """What the detector sees, without the faces it is not sure of."""
        points, confidence = self._detector.detect(images)
        return np.where((confidence >= self._min_confidence)[:, None, None], points, np.nan)


class FileLandmarks:
    """The points of a file; `FileLandmarks.open(path)` reads one."""

    def __init__(self, descriptor: int, *, version: str) -> None:
        """Of an open file of sorted keys and their points, which closes with this object."""
        self._descriptor = descriptor
        self._version = version
        weakref.finalize(self, os.close, descriptor)
        mapped = mmap(descriptor, 0, access=ACCESS_READ)
        count = len(mapped) // (8 + _POINTS.itemsize)
        self._keys = np.frombuffer(mapped, "<u8", count)
        self._points = np.frombuffer(mapped, _POINTS.base, offset=8 * count).reshape(count, 5, 2)

    @classmethod
    def open(cls, path: Path | str) -> "FileLandmarks":
        """Read a file of any form that `landmark_files` knows into temporary ones.

        While it is read they take 104 bytes an image, then 48.

        Raises:
            DataError: the file cannot be read, is of another form, or names an image twice.
        """
        path = Path(path)
        with tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as table:
            _write_sorted(path, rows)
            in_order = np.memmap(rows, _ROW, "r")
            for field in ("key", "points"):
                for start in range(0, len(in_order), _CHUNK):
                    table.write(in_order[field][start : start + _CHUNK].tobytes())
            table.flush()
            return cls(os.dup(table.fileno()), version=f"sha256 {sha256_of(path)}")

    def __len__(self) -> int:
        """How many images have points."""
        return len(self._keys)

    @property
    def version(self) -> str:
        """The file's sha256."""
        return self._version

    def rows(self, names: Names) -> Int64[np.ndarray, " images"]:
        """The row of each image, counted in an order of our own; -1 where there is none."""
        full = self._rows_of([f"{identity}/{image}" for identity, image in names])
        alone = self._rows_of([image for _, image in names])
        return np.where(full >= 0, full, alone)

    def points(self, rows: Int64[np.ndarray, " images"]) -> Points:
        """The points of some rows, NaN where a row is -1."""
        return np.where((rows >= 0)[:, None, None], self._points[rows].astype(np.float64), np.nan)

    def find(self, names: Names, images: Images) -> Points:
        """The points that the file has for these names."""
        return self.points(self.rows(names))

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that is being started gets the open file, which has no name."""
        return _reopened, (DupFd(self._descriptor), self._version)

    def _rows_of(self, paths: list[str]) -> Int64[np.ndarray, " images"]:
        keys = _keys_of(paths)
        place = np.searchsorted(self._keys, keys)
        found = self._keys[np.minimum(place, len(self._keys) - 1)] == keys
        return np.where(found, place, -1)


def _reopened(descriptor: Any, version: str) -> FileLandmarks:
    return FileLandmarks(descriptor.detach(), version=version)


def _write_sorted(path: Path, rows: IO[bytes]) -> None:
    count = 0
    for names, points in read_landmarks(path):
        batch = np.empty(len(names), _ROW)
        batch["key"] = _keys_of(names)
        batch["number"] = np.arange(count + 1, count + 1 + len(names))
        with np.errstate(over="ignore"):  # infinite points are no face's, and counted as such
            batch["points"] = points
        rows.write(batch.tobytes())
        count += len(names)
    if not count:
        raise DataError(f"{path} holds no landmarks")
    rows.flush()
    written = np.memmap(rows, _ROW, "r+")
    written.sort(order="key")  # in place: the system may write its pages back at any time
    for start in range(0, count, _CHUNK):
        piece = written[start : start + _CHUNK + 1]
        again = np.flatnonzero(piece["key"][1:] == piece["key"][:-1])
        if len(again):
            first, second = sorted(piece["number"][again[0] : again[0] + 2].tolist())
            raise DataError(f"{path}: its entries {first} and {second} name the same image")


def _keys_of(paths: Sequence[str]) -> UInt64[np.ndarray, " paths"]:
    """64 bits of each path: of 42 million, two are alike with a chance of 1 in 20,000."""
    digests = (
        blake2b(path.removeprefix("./").encode(errors="surrogatepass"), digest_size=8).digest()
        for path in paths
    )
    return np.frombuffer(b"".join(digests), "<u8")
