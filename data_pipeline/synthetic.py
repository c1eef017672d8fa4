"""Procedurally drawn faces, for trying everything out without anyone's photographs.

A made-up person is a number. Identity lies in the geometry and the colouring of the face; pose,
light, white balance, expression, blur, noise, hats, glasses and hands change from picture to
picture. `draw` is a pure function of (seed, identity, image, size): the pixels are computed with
operations whose results IEEE 754 fixes (see `synthetic_canvas`), so they are the same on every
machine.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.pack import pack
from data_pipeline.synthetic_portrait import portray
from data_pipeline.synthetic_traits import conditions, traits

QUALITY = 92
SMALLEST, LARGEST = 16, 1024  # pixels a side


def draw(
    identity: int, image: int, *, size: int, seed: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Picture number `image` of person number `identity`, RGB."""
    person, scene = traits(seed, identity), conditions(seed, identity, image)
    return portray(person, scene, size=size, noise_key=(seed, identity, image))


@dataclass(frozen=True, kw_only=True)
class SyntheticSource:
    """`images` pictures of each of `identities` people, numbered from `first_identity`.

    Two ranges of numbers that do not overlap are different people: train on one, verify on another.
    """

    identities: int
    images: int
    size: int
    seed: int
    first_identity: int = 0

    def __post_init__(self) -> None:
        for name in ("identities", "images"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.first_identity < 0:
            raise DataError(f"first_identity must not be negative, but is {self.first_identity}")
        if not SMALLEST <= self.size <= LARGEST:
            raise DataError(f"size must be from {SMALLEST} to {LARGEST} pixels, not {self.size}")

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(person, picture), as decimal numbers."""
        for identity in range(self.first_identity, self.first_identity + self.identities):
            for image in range(self.images):
                yield str(identity), str(image)

    def read(self, identity: str, image: str) -> bytes:
        """Draw one picture as a JPEG."""
        picture = draw(int(identity), int(image), size=self.size, seed=self.seed)
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=QUALITY, subsampling="4:4:4")
        return stream.getvalue()

    def counts(self) -> Mapping[str, int]:
        """Nothing is ever passed over."""
        return {}


def synthesize(
    dest: Path | str,
    *,
    identities: int,
    images: int,
    size: int = 112,
    seed: int = 0,
    first_identity: int = 0,
    processes: int = 1,
    show_progress: bool = False,
) -> Dataset:
    """Draw people and pack their pictures as the dataset `dest`, in this many processes."""
    source = SyntheticSource(
        identities=identities, images=images, size=size, seed=seed, first_identity=first_identity
    )
    return pack(source, dest, seed=seed, workers=processes, show_progress=show_progress)
