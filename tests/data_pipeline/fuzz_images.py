"""Mutated images: looked at by the check, shown small, and decoded as in training."""

import math
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.checking.images import faults, thumbnail
from data_pipeline.image_header import MAX_PIXELS, read_header
from tests.data_pipeline.fuzz import guarded, mutated
from tests.data_pipeline.pictures import encoded, jpeg, pixels

SIDE = 16
DECODED = {"cmyk", "sixteen_bit"}  # warnings

_TOKENS = (
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"\xff\xc4",
    b"\xff\xc2",
    b"\xff\xff",
    b"\x0f\xff\x0f\xff",
    b"\x00\x00",
    b"IDAT",
    b"IEND",
    b"tRNS",
    b"VP8X",
    b"ALPH",
)


def fuzz_images(numbers: range, *, seed: int) -> Counter[str]:
    """Outcomes of images: looked at, shown small, and decoded as in training."""
    from data_pipeline.augment import Augmentation
    from data_pipeline.decode import UndecodableError

    decoder = _decoder()
    zeros = np.zeros(1, np.int64)
    unchanged = Augmentation().parameters(zeros, zeros)
    outcomes: Counter[str] = Counter()
    for number in numbers:
        generator = np.random.default_rng((2, seed, number))
        base = _images()[int(generator.integers(len(_images())))]
        content = mutated(base, generator, _TOKENS)
        with guarded("image", number):
            found = [fault.kind for fault in faults(content, any_form=bool(number % 2))]
            outcomes.update(found or ["sound"])
            outcomes["shown"] += thumbnail(content) is not None
            header = read_header(content)
            if header is None or header.pixels > MAX_PIXELS:
                outcomes["never decoded"] += 1
                continue
            decoder.submit([content], unchanged)
            try:
                decoder.collect()
                outcomes["decoded"] += 1
            except UndecodableError:
                outcomes["not decoded"] += 1
                outcomes["not decoded but found sound"] += not set(found) - DECODED
    decoder.close()
    return outcomes


@cache
def _images() -> list[bytes]:
    picture = Image.fromarray(pixels(1, SIDE))
    return [
        jpeg(1, SIDE),
        encoded(picture, progressive=True),
        encoded(picture, subsampling="4:2:0", restart_marker_blocks=1),
        encoded(picture.convert("L")),
        encoded(picture.convert("CMYK")),
        encoded(picture, "PNG"),
        encoded(picture.convert("P"), "PNG"),
        encoded(picture.convert("I;16"), "PNG"),
        encoded(picture, "WEBP"),
        encoded(picture, "WEBP", lossless=True),
    ]


def _decoder() -> Any:
    from data_pipeline.augment import Augmentation
    from data_pipeline.decode import Decoder

    return Decoder(
        batch_size=1,
        image_size=SIDE,
        augmentation=Augmentation(),
        resizes=True,
        device="cpu",
        threads=1,
    )


@cache
def grow_buffers() -> None:
    """Decode the largest images allowed: this process's buffers are then as large as they get.

    A mutated header may ask for as much, and a decoder keeps what its largest image took.
    """
    from data_pipeline.augment import Augmentation

    side, most = math.isqrt(MAX_PIXELS), 65_500  # the widest JPEG
    square = Image.new("RGB", (side, side), (90, 120, 150))
    wide = Image.new("RGB", (most, MAX_PIXELS // most), (90, 120, 150))
    zeros = np.zeros(1, np.int64)
    decoder = _decoder()
    for content in (
        *(encoded(picture, progressive=True) for picture in (square, wide)),
        *(encoded(picture.convert("CMYK")) for picture in (square, wide)),
        encoded(square, "PNG"),
        encoded(square, "WEBP"),
    ):
        decoder.submit([content], Augmentation().parameters(zeros, zeros))
        decoder.collect()
        thumbnail(content)
    decoder.close()
