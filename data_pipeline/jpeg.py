"""Turning whatever image a source holds into an RGB JPEG, or saying why it cannot be one.

A sound RGB JPEG keeps its bytes: decoding and encoding again would cost quality. Anything else
that Pillow reads (PNG, WebP, ...; greyscale, CMYK, 16 bit), and every face that is brought upright,
is encoded at quality 95 without chroma subsampling. Every image is decoded once here, so that
training meets no broken one.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from data_pipeline.align import Crop, leaves_as_is, warp
from data_pipeline.alignment import Alignment, Transform
from data_pipeline.errors import DataError
from data_pipeline.image_header import (
    FORMATS,
    MAX_PIXELS,
    ORIENTATION,
    TRANSPOSED,
    read_header,
)
from data_pipeline.sources import Source

QUALITY = 95

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """An encoded RGB image and its size as decoders show it."""

    content: bytes
    height: int
    width: int
    encoded_again: bool


class UnreadableImage(DataError):
    """An image that cannot be packed; the message is the reason."""


def as_jpeg(content: bytes, *, max_pixels: int = MAX_PIXELS) -> Jpeg:
    """Check an encoded image by decoding it, and encode it again where it is no RGB JPEG."""
    with _decoded(content, max_pixels) as image:
        # Without a header that DALI reads, though Pillow does, it would be a bad sample.
        if image.format == "JPEG" and image.mode == "RGB" and read_header(content) is not None:
            height, width = image.height, image.width
            if image.getexif().get(ORIENTATION) in TRANSPOSED:
                width, height = height, width
            return Jpeg(content=content, height=height, width=width, encoded_again=False)
        return _encoded(_upright(image))


def upright_pixels(
    content: bytes, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """The RGB pixels of an encoded image, turned as its EXIF data say."""
    with _decoded(content, max_pixels) as image:
        return np.asarray(_upright(image))


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What packing does with each image of a source, as a value that worker processes get."""

    source: Source
    max_pixels: int
    alignment: Alignment | None = None
    """Brings faces upright, in crops of one size; without one images stay as they are."""

    def prepare(self, identity: str, image: str) -> Jpeg | str:
        """The image as a JPEG, or the reason why not."""
        return self.prepare_all([(identity, image)])[0]

    def prepare_all(self, images: list[tuple[str, str]]) -> list[Jpeg | str]:
        """`prepare` for several images."""
        if self.alignment is None:
            return [_or_reason(self._checked, names) for names in images]
        prepared: list[Jpeg | str] = []
        faces: list[_Face | str] = []
        for names in images:
            faces.append(_or_reason(self._face, names))
            if (
                sum(face.pixels.size // 3 for face in faces if not isinstance(face, str))
                >= MAX_PIXELS
            ):
                prepared += _crops(faces, self.alignment)
                faces = []
        return prepared + _crops(faces, self.alignment)

    def _checked(self, names: tuple[str, str]) -> Jpeg:
        return as_jpeg(self.source.read(*names), max_pixels=self.max_pixels)

    def _face(self, names: tuple[str, str]) -> "_Face":
        content = self.source.read(*names)
        pixels = upright_pixels(content, max_pixels=self.max_pixels)
        return _Face(names=names, content=content, pixels=pixels)


@dataclass(frozen=True, kw_only=True)
class _Face:
    names: tuple[str, str]
    content: bytes
    pixels: UInt8[np.ndarray, "height width 3"]


def _or_reason(make: Callable[[tuple[str, str]], T], names: tuple[str, str]) -> T | str:
    try:
        return make(names)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except DataError as error:
        return str(error)


def _crops(faces: list[_Face | str], alignment: Alignment) -> list[Jpeg | str]:
    """The crops of faces at once, between the reasons why others are none."""
    found = [face for face in faces if not isinstance(face, str)]
    if not found:
        return [face for face in faces if isinstance(face, str)]
    transforms = iter(
        alignment.transforms([face.names for face in found], [face.pixels for face in found])
    )
    return [
        face if isinstance(face, str) else _crop(face, next(transforms), alignment.crop)
        for face in faces
    ]


def _crop(face: _Face, transform: Transform | str, crop: Crop) -> Jpeg | str:
    if isinstance(transform, str):
        return transform
    height, width, _ = face.pixels.shape
    if leaves_as_is(transform, height, width, crop):
        return as_jpeg(face.content)
    return _encoded(Image.fromarray(warp(face.pixels, transform, crop)))


@contextmanager
def _decoded(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """A decoded image; whatever goes wrong with it makes it unreadable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and sizes that are checked below
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > max_pixels:
                    raise UnreadableImage(
                        f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded"
                    )
                image.load()
                yield image
        except (UnreadableImage, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise UnreadableImage(f"too many pixels; at most {max_pixels} are decoded") from None
        except Image.UnidentifiedImageError:
            raise UnreadableImage("not an image, or in an unknown format") from None
        except Exception as error:  # Pillow's parsers raise anything, SyntaxError included
            raise UnreadableImage(f"cut or damaged: {error}") from error


def _encoded(image: Image.Image) -> Jpeg:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return Jpeg(
        content=stream.getvalue(), height=image.height, width=image.width, encoded_again=True
    )


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(_rgb(image))


def _rgb(image: Image.Image) -> Image.Image:
    """The image in 8-bit RGB: transparency dropped, 16 bits scaled to 8."""
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, whose range nothing says")
    if image.mode.startswith("I"):  # Pillow's own conversion cuts off instead of scaling
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise UnreadableImage("more than 16 bits a pixel")
        grey = Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257
        grey.info = image.info
        return grey.convert("RGB")
    return image.convert("RGB")
