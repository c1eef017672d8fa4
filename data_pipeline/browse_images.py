"""Pictures of a dataset's faces for a page: decoded, made small, and encoded anew.

So what a page shows is never the stored file: no metadata, no format but JPEG and PNG, and no
picture with more pixels than are allowed, whatever lies in a foreign tar.
"""

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipeline.index import Dataset
from data_pipeline.jpeg import upright_pixels
from data_pipeline.shards import ShardReader

MAX_OPEN = 16  # shards
QUALITY = 92


class Picture(NamedTuple):
    """A face as it is stored."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB, upright."""
    stored_bytes: int


class Pictures:
    """The faces of a dataset, one at a time; not to be used from several threads."""

    def __init__(self, dataset: Dataset) -> None:
        self._reader = ShardReader(dataset, max_open=MAX_OPEN)

    def read(self, sample: int) -> Picture:
        """A face.

        Raises:
            BadSampleError: its bytes changed, it has too many pixels, no identity or no file.
            DataError: it cannot be decoded, or its tar cannot be fetched.
        """
        content = self.encoded(sample)
        return Picture(upright_pixels(content), len(content))

    def encoded(self, sample: int) -> bytes:
        """The stored image, undecoded; raises as `read` does."""
        return self._reader.read_image(sample).content

    def thumbnail(self, sample: int, *, side: int) -> bytes:
        """A face as a JPEG of at most `side` pixels in height and width, never enlarged."""
        image = Image.fromarray(self.read(sample).pixels)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=QUALITY, subsampling="4:4:4")
        return stream.getvalue()

    def close(self) -> None:
        """Close the files; a later picture opens them again."""
        self._reader.close()


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """Pixels without loss."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
