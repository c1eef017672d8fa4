"""Turning whatever image a source holds into an RGB JPEG, or saying why it cannot be one.

A sound RGB JPEG keeps its bytes: decoding and encoding again would cost quality. Anything else
that Pillow reads (PNG, WebP, ...; greyscale, CMYK, 16 bit) is encoded at quality 95 without
chroma subsampling. Every image is decoded once here, so that training meets no broken one.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from data_pipeline.errors import DataError
from data_pipeline.sources import Source

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # some others run programs (EPS)
MAX_PIXELS = 4096 * 4096  # 48 MiB decoded; faces are far smaller, bombs far larger
QUALITY = 95
ORIENTATION = 0x0112  # EXIF; 5 to 8 mean that height and width change places
TRANSPOSED = range(5, 9)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and sizes that are checked below
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise UnreadableImage(
                        f"{width} x {height} pixels; at most {max_pixels} are decoded"
                    )
                image.load()
                if image.format == "JPEG" and image.mode == "RGB":
                    if image.getexif().get(ORIENTATION) in TRANSPOSED:
                        width, height = height, width
                    return Jpeg(content=content, height=height, width=width, encoded_again=False)
                upright = ImageOps.exif_transpose(_rgb(image))
                stream = io.BytesIO()
                upright.save(stream, "JPEG", quality=QUALITY, subsampling="4:4:4")
        except (UnreadableImage, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise UnreadableImage(f"too many pixels; at most {max_pixels} are decoded") from None
        except Image.UnidentifiedImageError:
            raise UnreadableImage("not an image, or in an unknown format") from None
        except Exception as error:  # Pillow's parsers raise anything, SyntaxError included
            raise UnreadableImage(f"cut or damaged: {error}") from error
    return Jpeg(
        content=stream.getvalue(), height=upright.height, width=upright.width, encoded_again=True
    )


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What packing does with each image of a source, as a value that worker processes get."""

    source: Source
    max_pixels: int

    def prepare(self, identity: str, image: str) -> Jpeg | str:
        """The image as a JPEG, or the reason why not."""
        try:
            return as_jpeg(self.source.read(identity, image), max_pixels=self.max_pixels)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except DataError as error:
            return str(error)

    def prepare_all(self, images: list[tuple[str, str]]) -> list[Jpeg | str]:
        """`prepare` for several images."""
        return [self.prepare(identity, image) for identity, image in images]


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
