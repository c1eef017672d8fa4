"""insightface's `.bin` verification sets: images in pairs with a flag each, as one pickle.

A limited child process (`bin_reader`) turns the pickle into plain files; what it leaves is checked
here and packed. A set names no persons and no folds: persons are those that the pairs imply
(`implied`), folds are the contiguous tenths that insightface's own evaluation takes.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from data_pipeline.errors import DataError
from data_pipeline.pack import Packed
from data_pipeline.pairs import PairSet, pack_with_pairs
from data_pipeline.pairs_draw import Pairs
from data_pipeline.pairs_file import FOLDS, even_folds
from data_pipeline.verification_sets.implied import Implied, implied_identities

_READER = Path(__file__).with_name("bin_reader.py")

# What reading may take beyond Python itself: the pickle, its images and a copy of one; 12,000
# arrays of numpy take 20 MB more. Unpickling runs at some 500 MB/s.
_ALLOWANCE_A_BYTE = 3
_ALLOWANCE_BYTES = 128 << 20
_CPU_SECONDS = 20
_CPU_SECONDS_A_GIB = 20
_WALL_FACTOR = 10  # for a slow disk


@dataclass(frozen=True, kw_only=True)
class BinSet:
    """What a `.bin` holds, as plain files in a folder."""

    images: Path
    """Encoded images, one after the other: two a pair."""
    ends: Int64[np.ndarray, " ends"]
    """Where the images begin, and the end of the last."""
    same: Bool[np.ndarray, " pairs"]


def pack_bin(
    path: Path | str,
    dest: Path | str,
    *,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = False,
) -> PairSet:
    """Pack a `.bin`, whose images that are the same byte for byte are packed once.

    Images that are not JPEGs (PNG, pixels) are encoded, which changes them by a little.
    """
    with tempfile.TemporaryDirectory(prefix="facescale-bin-") as scratch:
        read = read_bin(path, Path(scratch))
        implied = implied_identities(*_distinct(read), read.same)
        source = _FacesOfBin(images=read.images, ends=read.ends, implied=implied)

        def pairs_of(packed: Packed) -> Pairs:
            sample_of = {image: sample for sample, image in enumerate(packed.images)}
            sample = np.array([sample_of[face] for face in source], np.int64)
            return Pairs(
                first=sample[implied.first],
                second=sample[implied.second],
                same=read.same,
                fold=even_folds(len(read.same), min(FOLDS, len(read.same))),
            )

        return pack_with_pairs(
            source, dest, pairs_of, seed=seed, workers=workers, show_progress=show_progress
        )


def read_bin(path: Path | str, scratch: Path) -> BinSet:
    """Have a limited process turn a `.bin` into files in `scratch`, an empty folder.

    Raises:
        DataError: the file cannot be read, holds no pairs, or is anything but such a set.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    answer = _ask(path, scratch, size=size)
    if "error" in answer:
        raise DataError(f"{path} is no verification set that can be read: {answer['error']}")
    sizes = np.fromfile(scratch / "sizes", "<u8").astype(np.int64)
    same = np.fromfile(scratch / "same", np.uint8).astype(np.bool_)
    ends = np.concatenate(([0], np.cumsum(sizes)))
    if not len(same):
        raise DataError(f"{path} holds no pairs")
    if len(sizes) != 2 * len(same) or ends[-1] != (scratch / "images").stat().st_size:
        raise DataError(f"{path}: its reader left files that do not fit together; try again")
    return BinSet(images=scratch / "images", ends=ends, same=same)


@dataclass(frozen=True, kw_only=True)
class _FacesOfBin:
    """The images to pack: an implied person, and the number of the image in the set."""

    images: Path
    ends: np.ndarray
    implied: Implied

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for identity, image in zip(self.implied.identity, self.implied.image, strict=True):
            yield f"{identity:06d}", f"{image:06d}"

    def read(self, identity: str, image: str) -> bytes:
        start, end = self.ends[int(image) : int(image) + 2].tolist()
        with self.images.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)

    def counts(self) -> Mapping[str, int]:
        return {"images_in_pairs": len(self.ends) - 1}


def _distinct(read: BinSet) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    """Both images of each pair, each by the number of the first that has the same bytes."""
    number: dict[bytes, int] = {}
    first_alike = np.empty(len(read.ends) - 1, np.int64)
    with read.images.open("rb") as file:
        for image, size in enumerate(np.diff(read.ends).tolist()):
            first_alike[image] = number.setdefault(hashlib.sha256(file.read(size)).digest(), image)
    return first_alike[0::2], first_alike[1::2]


def _ask(path: Path, scratch: Path, *, size: int) -> dict[str, Any]:
    """What the limited process says about the file."""
    allowance = size * _ALLOWANCE_A_BYTE + _ALLOWANCE_BYTES
    seconds = _CPU_SECONDS + _CPU_SECONDS_A_GIB * (size >> 30)
    # An environment of its own: nothing of ours is to be found in it but where libraries are.
    environment = {n: os.environ[n] for n in ("LD_LIBRARY_PATH",) if n in os.environ}
    try:
        child = subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                _READER,
                path.resolve(),
                scratch,
                str(allowance),
                str(seconds),
            ],
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WALL_FACTOR * seconds,
        )
    except subprocess.TimeoutExpired:
        return {"error": "reading it takes too long"}
    try:
        return json.loads(child.stdout)
    except ValueError:
        reason = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        return {"error": f"its reader ended with status {child.returncode}: {reason[-1]}"}
