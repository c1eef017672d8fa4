"""What is wrong with one encoded image, and a thumbnail of it if anything can be shown.

Sizes are taken from headers before anything is decoded. A JPEG is decoded at an eighth of its side:
all of its entropy-coded bytes are read, as for the whole picture, but a 64th of the pixels are
computed. That finds every file that a decoder refuses; bytes that changed without a decoder's
notice are found by the CRC-32 of an index alone.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from zlib import crc32

from PIL import Image, ImageFile, ImageOps

from data_pipeline.image_header import (
    FORMATS,
    MAX_PIXELS,
    ORIENTATION,
    TRANSPOSED,
    read_header,
)

THUMBNAIL = 96  # pixels, the longer side
BITS = 8
CMYK_CHANNELS = 4
JPEG_START = b"\xff\xd8"
PNG_CHUNKS = 8  # bytes before the first


class Fault(NamedTuple):
    """A kind of fault, and what it is about in this image."""

    kind: str
    detail: str


def faults(
    content: bytes, *, size: tuple[int, int] | None = None, any_form: bool = False
) -> list[Fault]:
    """Everything that is wrong with an image that is to be `size` (height, width), if that is said.

    With `any_form` all forms that packing reads are images, otherwise those of a dataset.
    """
    header = read_header(content)
    if header is None and not any_form:
        return [_no_header(content)]
    found = []
    if header is not None:
        if header.pixels > MAX_PIXELS:
            return [_oversized(header.width, header.height)]
        if header.bits > BITS:
            found.append(Fault("sixteen_bit", f"{header.form}, {header.bits} bits"))
        if header.form == "JPEG" and header.channels == CMYK_CHANNELS:
            found.append(Fault("cmyk", ""))
        if header.form == "PNG" and (fault := _png_fault(content)):
            return [*found, fault]
    elif content.startswith(JPEG_START):
        return [_no_header(content)]
    return found + _decoding_faults(content, size, wide_is_known=header is not None)


def thumbnail(content: bytes) -> bytes | None:
    """A small JPEG of an image, of the part that can be decoded where it is damaged."""
    header = read_header(content)
    if header is not None and header.pixels > MAX_PIXELS:
        return None
    try:
        with (
            _pillow(),
            _damage_allowed(),
            Image.open(io.BytesIO(content), formats=FORMATS) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(image.convert("RGB"))
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            stream = io.BytesIO()
            small.save(stream, "JPEG", quality=80)
            return stream.getvalue()
    except Exception:  # Pillow's parsers raise anything; there is just no picture then
        return None


def _decoding_faults(
    content: bytes, size: tuple[int, int] | None, *, wide_is_known: bool
) -> list[Fault]:
    found = []
    try:
        with _pillow(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return [_oversized(width, height)]
            if not wide_is_known and image.mode == "CMYK":
                found.append(Fault("cmyk", ""))
            if not wide_is_known and image.mode[0] in "IF":
                found.append(Fault("sixteen_bit", f"{image.format}, mode {image.mode}"))
            if image.getexif().get(ORIENTATION) in TRANSPOSED:
                width, height = height, width
            if image.mode == "RGB":
                image.draft("L", (1, 1))  # an eighth of each side
            image.load()
    except Image.DecompressionBombError:
        return [Fault("oversized", f"at most {MAX_PIXELS} pixels are decoded")]
    except Image.UnidentifiedImageError:
        return [*found, Fault("undecodable", "in no form that is read")]
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise anything, SyntaxError included
        return [*found, Fault("undecodable", str(error))]
    if size is not None and (height, width) != size:
        found.append(Fault("size_differs", f"{width} x {height}, not {size[1]} x {size[0]}"))
    return found


def _no_header(content: bytes) -> Fault:
    if content.startswith(JPEG_START):
        return Fault("undecodable", "bytes that are none of a JPEG's segments before its pixels")
    return Fault("not_an_image", f"{len(content)} bytes")


def _png_fault(content: bytes) -> Fault | None:
    """PNG 5.3: a chunk has a length, a name, data and a CRC-32, which Pillow does not compare."""
    at, name = PNG_CHUNKS, b""
    while name != b"IEND":
        size = int.from_bytes(content[at : at + 4], "big")
        name, end = content[at + 4 : at + 8], at + 8 + size
        if len(content) < end + 4:
            return Fault("undecodable", "cut within a chunk")
        if crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return Fault("undecodable", f"the CRC-32 of its chunk {name!r} is wrong")
        at = end + 4
    return None


def _oversized(width: int, height: int) -> Fault:
    return Fault("oversized", f"{width} x {height} pixels; at most {MAX_PIXELS} are decoded")


@contextmanager
def _pillow() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, and sizes that are checked
        yield


@contextmanager
def _damage_allowed() -> Iterator[None]:
    """Pillow shows what it can; its switch is one for the whole process."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
