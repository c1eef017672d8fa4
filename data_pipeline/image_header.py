"""What an image file says of itself in its first bytes: form, size and depth. Nothing is decoded.

A few kilobytes can ask a decoder for gigabytes, so the number of pixels is looked up here before
anything decodes them. The forms are those that a dataset may hold: JPEG, PNG and WebP.
"""

import struct
from typing import Literal, NamedTuple

MAX_PIXELS = 4096 * 4096  # 48 MiB decoded; faces are far smaller, bombs far larger
MAX_IMAGE_BYTES = 64 << 20  # of a file; keeps one from filling memory
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What Pillow may read when a source is packed; some of its other readers run programs (EPS)."""
ORIENTATION = 0x0112  # EXIF; 5 to 8 mean that height and width change places
TRANSPOSED = range(5, 9)
MOST_SEGMENTS = 10_000  # of a JPEG before its first scan; real files have a few dozen at most

# ITU-T T.81, table B.1
_SEGMENT = struct.Struct(">HH").unpack_from  # marker, length
_FRAME = struct.Struct(">BHHB").unpack_from
_FIRST, _SCAN, _FILL = 0xFFC0, 0xFFDA, 0xFFFF
_FRAMES = frozenset(range(0xFFC0, 0xFFD0)) - {0xFFC4, 0xFFC8, 0xFFCC}  # SOF; not DHT, JPG, DAC
_LONE = frozenset(range(0xFFD0, 0xFFDA))  # RST0 to RST7, SOI, EOI: no length follows
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; 3 is a palette
_PALETTE = 3


class ImageHeader(NamedTuple):
    """The size is that of the stored pixels, before any turn that EXIF data ask for."""

    form: Literal["JPEG", "PNG", "WEBP"]
    height: int
    width: int
    bits: int
    """Of one colour channel."""
    channels: int

    @property
    def pixels(self) -> int:
        """How many are decoded."""
        return self.height * self.width


def read_header(content: bytes) -> ImageHeader | None:
    """The header of a JPEG, PNG or WebP file; `None` where there is none that makes sense."""
    if content.startswith(b"\xff\xd8"):
        header = _jpeg(content)
    elif content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR":
        header = _png(content)
    elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        header = _webp(content)
    else:
        header = None
    return header if header is not None and header.pixels else None


def _jpeg(content: bytes) -> ImageHeader | None:
    """ITU-T T.81, B.2: the frame header among the segments before the first scan.

    Segments must follow each other, as DALI has it; libjpeg alone reads over bytes between them.
    """
    frame, at = None, 2
    try:
        for _ in range(MOST_SEGMENTS):
            marker, length = _SEGMENT(content, at)
            if marker == _SCAN:
                break
            if marker == _FILL:
                at += 1
                continue
            if marker < _FIRST or marker in _LONE or length < 2:
                return None
            if marker in _FRAMES:
                if frame is not None:
                    return None
                frame = _FRAME(content, at + 4)
            at += 2 + length
        else:
            return None
    except struct.error:  # cut
        return None
    if frame is None:
        return None
    bits, height, width, channels = frame
    return ImageHeader("JPEG", height, width, bits, channels)


def _png(content: bytes) -> ImageHeader | None:
    if len(content) < 26 or content[25] not in _PNG_CHANNELS:
        return None
    palette = content[25] == _PALETTE
    return ImageHeader(
        form="PNG",
        height=_big(content, 20, 4),
        width=_big(content, 16, 4),
        bits=8 if palette else content[24],
        channels=_PNG_CHANNELS[content[25]],
    )


def _webp(content: bytes) -> ImageHeader | None:
    """RFC 9649: lossy, lossless, or an extended file with the size of its canvas."""
    match content[12:16], len(content) >= 30:
        case b"VP8 ", True if content[23:26] == b"\x9d\x01\x2a":
            width, height = (_little(content, at, 2) & 0x3FFF for at in (26, 28))
            channels = 3
        case b"VP8L", True if content[20] == 0x2F:
            packed = _little(content, 21, 4)
            width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
            channels = 4
        case b"VP8X", True:
            width, height = (_little(content, at, 3) + 1 for at in (24, 27))
            channels = 4 if content[20] & 0x10 else 3
        case _:
            return None
    return ImageHeader(form="WEBP", height=height, width=width, bits=8, channels=channels)


def _big(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "big")


def _little(content: bytes, at: int, size: int) -> int:
    return int.from_bytes(content[at : at + size], "little")
