"""Sizes and depths from headers alone, compared with what Pillow finds."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data_pipeline.image_header import MOST_SEGMENTS, read_header

CASES = {
    "jpeg": ("RGB", "JPEG", {}, 3),
    "progressive": ("RGB", "JPEG", {"progressive": True}, 3),
    "grey jpeg": ("L", "JPEG", {}, 1),
    "cmyk": ("CMYK", "JPEG", {}, 4),
    "long comment": ("RGB", "JPEG", {"comment": b"\xff\xc0" * 30_000}, 3),
    "png": ("RGB", "PNG", {}, 3),
    "palette": ("P", "PNG", {}, 3),
    "grey and alpha": ("LA", "PNG", {}, 2),
    "lossy webp": ("RGB", "WEBP", {}, 3),
    "lossless webp": ("RGB", "WEBP", {"lossless": True}, 4),
    "webp with alpha": ("RGBA", "WEBP", {"alpha_quality": 50}, 4),
}


def picture(mode, form, **options):
    values = np.random.default_rng(0).integers(0, 256, (23, 41, 3), np.uint8)
    image = Image.fromarray(values).convert(mode)
    if mode == "RGBA":
        image.putalpha(100)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_a_header_is_that_of_the_file(case):
    mode, form, options, channels = CASES[case]
    header = read_header(picture(mode, form, **options))
    assert header is not None
    assert (header.form, header.height, header.width) == (form, 23, 41)
    assert (header.bits, header.channels, header.pixels) == (8, channels, 23 * 41)


def test_sixteen_bits_of_a_png_are_seen():
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(stream, "PNG")
    header = read_header(stream.getvalue())
    assert header is not None
    assert (header.bits, header.height, header.width) == (16, 4, 5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"none",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x11\x08",
        b"\x89PNG\r\n\x1a\n" + bytes(30),
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(30),
        b"GIF89a" + bytes(30),
    ],
)
def test_what_is_none_has_no_header(content):
    assert read_header(content) is None


def test_a_picture_without_pixels_has_no_header():
    content = bytearray(picture("RGB", "PNG"))
    content[16:20] = bytes(4)
    assert read_header(bytes(content)) is None


def test_fill_bytes_before_a_marker_are_read_over():
    content = picture("RGB", "JPEG")
    assert read_header(content[:2] + b"\xff" * 1000 + content[2:]) == read_header(content)


@pytest.mark.parametrize("between", [b"x", b"\0", b"\xff\x00", b"\xff\xd0", b"\xff\xd9"])
def test_bytes_between_segments_are_no_header(between):
    content = picture("RGB", "JPEG")
    for at in (2, content.index(b"\xff\xc0"), content.index(b"\xff\xda")):
        assert read_header(content[:at] + between + content[at:]) is None


def test_two_frames_are_no_header():
    content = picture("RGB", "JPEG")
    at = content.index(b"\xff\xc0")
    assert read_header(content[:at] + content[at : at + 19] + content[at:]) is None


def test_a_file_of_nothing_but_segments_is_given_up_early():
    assert read_header(b"\xff\xd8" + b"\xff\xfe\x00\x02" * (10 * MOST_SEGMENTS)) is None


@given(st.sampled_from(sorted(CASES)), st.binary(max_size=60), st.integers(0, 400))
def test_any_bytes_are_a_header_or_none(case, changed, at):
    mode, form, options, _ = CASES[case]
    content = bytearray(picture(mode, form, **options))
    content[at : at + len(changed)] = changed
    header = read_header(bytes(content[: at + 400]))
    assert header is None or header.pixels > 0
