import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipeline.image_header import read_header
from data_pipeline.jpeg import Preparation, UnreadableImage, as_jpeg
from tests.data_pipeline.pictures import MemorySource, encoded, jpeg, pixels

# The largest change of any value over 200 of our patterns is 13 of 255 when encoded at quality 95
# with 4:4:4 (measured), against 66 with 4:2:0. Cutting 16 bits off instead of scaling changes 255.
LOSS = 13


def decoded(content):
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return np.asarray(image).astype(int)


def test_an_rgb_jpeg_keeps_its_bytes():
    for content in (
        jpeg(1, 24),
        encoded(pixels(1, 24), progressive=True),
        encoded(pixels(1, 24), subsampling="4:4:4", quality=60),
    ):
        made = as_jpeg(content)
        assert made.content == content
        assert (made.height, made.width, made.encoded_again) == (24, 24, False)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_other_formats_are_encoded_again_with_little_loss(form, options):
    made = as_jpeg(encoded(pixels(2), form, **options))
    assert made.encoded_again
    assert abs(decoded(made.content) - pixels(2)).max() <= LOSS


def test_an_image_encoded_again_is_not_subsampled():
    made = as_jpeg(encoded(pixels(3), "PNG"))
    image: Any = Image.open(io.BytesIO(made.content))
    assert [(horizontal, vertical) for _, horizontal, vertical, _ in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_greyscale_becomes_rgb(form):
    grey = pixels(4)[:, :, 0]
    made = as_jpeg(encoded(grey, form))
    assert made.encoded_again
    assert abs(decoded(made.content) - grey[:, :, None]).max() <= LOSS


def test_cmyk_becomes_rgb():
    cmyk = encoded(Image.fromarray(pixels(5)).convert("CMYK"), quality=95)
    assert abs(decoded(as_jpeg(cmyk).content) - pixels(5)).max() <= LOSS


def test_sixteen_bits_are_scaled_and_not_cut_off():
    grey = pixels(6)[:, :, 0]
    made = as_jpeg(encoded(grey.astype(np.uint16) * 257, "PNG"))
    assert abs(decoded(made.content) - grey[:, :, None]).max() <= LOSS


def test_a_palette_and_transparency_become_plain_rgb():
    flat = np.zeros((16, 16, 4), np.uint8)
    flat[:, :8] = (200, 40, 90, 255)
    flat[:, 8:] = (10, 150, 60, 0)  # colour under full transparency is kept
    image = Image.fromarray(flat)
    made = as_jpeg(encoded(image, "PNG"))
    assert abs(decoded(made.content)[4, 2] - (200, 40, 90)).max() <= LOSS
    assert abs(decoded(made.content)[4, 13] - (10, 150, 60)).max() <= LOSS
    paletted = as_jpeg(encoded(image.convert("RGB").quantize(4), "GIF"))
    assert abs(decoded(paletted.content)[4, 2] - (200, 40, 90)).max() <= LOSS


def turned_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to see it upright"
    return exif


def test_sizes_are_those_of_the_upright_image():
    tall = pixels(7)[:8]
    kept = as_jpeg(encoded(tall, exif=turned_by_exif()))
    assert (kept.height, kept.width, kept.encoded_again) == (16, 8, False)
    made = as_jpeg(encoded(tall, "PNG", exif=turned_by_exif()))
    assert decoded(made.content).shape == (16, 8, 3) == (made.height, made.width, 3)
    assert abs(decoded(made.content) - np.rot90(tall, -1)).max() <= LOSS


def reason(content, **limits):
    with pytest.raises(UnreadableImage) as caught:
        as_jpeg(content, **limits)
    return str(caught.value)


def test_a_jpeg_with_bytes_between_its_segments_is_encoded_again():
    content = jpeg(1)
    at = content.index(b"\xff\xda")
    padded = content[:at] + bytes(7) + content[at:]
    again = as_jpeg(padded)
    assert again.encoded_again
    assert read_header(padded) is None
    assert read_header(again.content) is not None


def test_cut_images_are_found_wherever_they_are_cut():
    whole = encoded(pixels(8, 64), quality=90)
    for share in (0.3, 0.6, 0.9):
        assert "cut or damaged" in reason(whole[: int(share * len(whole))])
    png = encoded(pixels(8, 64), "PNG")
    assert "cut or damaged" in reason(png[: len(png) // 2])


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff"])
def test_what_is_no_image_is_called_so(content):
    assert reason(content) == "not an image, or in an unknown format"


def test_size_is_checked_before_anything_is_decoded():
    png = encoded(pixels(1), "PNG")
    assert (
        reason(_claiming(png, 5_000, 6_000)) == "5000 x 6000 pixels; at most 16777216 are decoded"
    )
    assert reason(_claiming(png, 30_000, 30_000)) == "too many pixels; at most 16777216 are decoded"
    assert reason(jpeg(1, 16), max_pixels=255) == "16 x 16 pixels; at most 255 are decoded"
    assert as_jpeg(jpeg(1, 16), max_pixels=256).height == 16


def _claiming(png, width, height):
    """The PNG with another size in its header (and the header's checksum)."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_floating_point_pixels_are_refused():
    image = Image.fromarray(np.zeros((8, 8), np.float32))
    assert "floating-point" in reason(encoded(image, "TIFF"))


def test_preparing_turns_every_failure_into_its_reason():
    source = _Missing({("a", "good"): jpeg(1), ("a", "none"): b"", ("a", "text"): b"text"})
    names = [("a", "good"), ("a", "none"), ("a", "text"), ("a", "gone")]
    assert Preparation(source=source, max_pixels=1000).prepare_all(names) == [
        as_jpeg(jpeg(1)),
        "nothing there",
        "not an image, or in an unknown format",
        "cannot be read: No such file or directory",
    ]


class _Missing(MemorySource):
    def read(self, identity, image):
        if image == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return super().read(identity, image)
