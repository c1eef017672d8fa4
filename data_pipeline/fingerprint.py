"""What tells whether two images are the same: a digest of the bytes, and a hash of the looks.

The looks are the signs of a picture's 16 x 16 lowest frequencies (a cosine transform of 32 x 32
grey pixels), the 8 x 8 lowest of them in the first of four words. Saving or scaling a picture again
changes few signs; two other pictures differ in nearly half of them, if both are aligned faces in
somewhat less.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_pipeline.jpeg import Jpeg, Preparation

SIDE = 32  # pixels
FINE, COARSE = 16, 8  # lowest frequencies a side, of all words and of the first
WORDS = FINE * FINE // 64
_ANGLE = np.pi / SIDE * np.arange(FINE)[:, None] * (np.arange(SIDE) + 0.5)
_COSINES = np.rint(np.cos(_ANGLE) * 4096).astype(np.int64)  # whole, so that all machines agree
_COARSE = np.add.outer(np.arange(FINE) // COARSE, np.arange(FINE) // COARSE) == 0
NO_LOOK = (0,) * WORDS


class Examined(NamedTuple):
    """An image ready to be packed, and what tells it from others."""

    jpeg: Jpeg
    digest: tuple[int, int]
    look: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Preparing images and taking their fingerprints, as a value that worker processes get."""

    preparation: Preparation
    looks: bool
    """Whether to take the looks, too; else all their bits are 0."""

    def examine_all(self, images: list[tuple[str, str]]) -> list[Examined | str]:
        """The images as JPEGs, or the reasons why not."""
        return [
            jpeg
            if isinstance(jpeg, str)
            else Examined(
                jpeg, digest_of(jpeg.content), look_of(jpeg.content) if self.looks else NO_LOOK
            )
            for jpeg in self.preparation.prepare_all(images)
        ]


def digest_of(content: bytes) -> tuple[int, int]:
    """128 bits of the bytes, as two numbers."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def look_of(content: bytes) -> tuple[int, ...]:
    """256 bits of the picture in an encoded image that can be read, as four numbers."""
    with Image.open(io.BytesIO(content)) as image:
        # Not `draft`, which decodes less detail: sides that no eighth divides come out shifted.
        grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    rising = _COSINES @ np.asarray(grey, np.int64) @ _COSINES.T > 0
    rising[0, 0] = False  # the mean is always positive
    bits = np.concatenate((rising[_COARSE], rising[~_COARSE]))
    return tuple(np.packbits(bits).view("<u8").tolist())
