"""What is wrong with one image: kinds of faults, thumbnails, and that bombs are never decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline.checking.images import THUMBNAIL, faults, thumbnail
from tests.data_pipeline.checking.broken import cmyk_jpeg, huge_png, sixteen_bit_png
from tests.data_pipeline.pictures import detailed, encoded, jpeg, pixels


def kinds(content, **options):
    return [fault.kind for fault in faults(content, **options)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_sound_image_has_no_fault(form):
    assert kinds(encoded(pixels(1), form), size=(16, 16)) == []


def test_grey_and_palette_images_are_sound():
    assert kinds(encoded(Image.fromarray(pixels(1)).convert("L"))) == []
    assert kinds(encoded(Image.fromarray(pixels(1)).convert("P"), "PNG")) == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not_an_image"),
        (b"rubbish", "not_an_image"),
        (encoded(pixels(1), "BMP"), "not_an_image"),
        (jpeg(1)[: len(jpeg(1)) // 2], "undecodable"),
        (encoded(pixels(1), "PNG")[:-40], "undecodable"),
        (encoded(pixels(1), "WEBP")[:60], "undecodable"),
        (huge_png(), "oversized"),
        (cmyk_jpeg(), "cmyk"),
        (sixteen_bit_png(), "sixteen_bit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_fault_has_its_kind(content, kind):
    assert kinds(content) == [kind]


def test_bytes_that_pillow_reads_over_and_dali_refuses_are_found():
    at = jpeg(1).index(b"\xff\xda")
    padded = jpeg(1)[:at] + bytes(7) + jpeg(1)[at:]
    Image.open(io.BytesIO(padded)).load()
    assert kinds(padded) == kinds(padded, any_form=True) == ["undecodable"]
    png = bytearray(encoded(pixels(1), "PNG"))
    png[-14] ^= 1  # of the CRC-32 of the pixels
    Image.open(io.BytesIO(png)).load()
    (fault,) = faults(bytes(png))
    assert fault == ("undecodable", "the CRC-32 of its chunk b'IDAT' is wrong")


def test_other_forms_are_images_where_packing_reads_them():
    assert kinds(encoded(pixels(1), "BMP"), any_form=True) == []
    assert kinds(encoded(pixels(1), "TIFF"), any_form=True) == []
    assert kinds(b"rubbish", any_form=True) == ["undecodable"]


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_cut_is_found_at_an_eighth_of_the_size_as_at_the_whole(keep, options):
    content = encoded(detailed(5), quality=90, **options)
    cut = content[: int(len(content) * keep)]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(cut)).load()
    assert kinds(cut) == ["undecodable"]


def test_a_size_is_compared_as_decoders_show_it():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = encoded(Image.fromarray(pixels(2)[:10]), exif=exif)
    assert kinds(turned, size=(16, 10)) == []
    (fault,) = faults(turned, size=(10, 16))
    assert (fault.kind, fault.detail) == ("size_differs", "10 x 16, not 16 x 10")


def test_a_bomb_is_never_decoded(monkeypatch):
    def decoded(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    assert kinds(huge_png()) == ["oversized"]
    assert thumbnail(huge_png()) is None
    tiff = encoded(Image.new("1", (8192, 4096)), "TIFF", compression="group4")
    assert kinds(tiff, any_form=True) == ["oversized"]
    assert thumbnail(tiff) is None


def test_a_thumbnail_is_a_small_jpeg_of_our_own():
    small = thumbnail(encoded(detailed(1, 300), "PNG"))
    assert small is not None
    image = Image.open(io.BytesIO(small))
    assert (image.format, image.size) == ("JPEG", (THUMBNAIL, THUMBNAIL))


def test_a_thumbnail_shows_what_is_left_of_a_cut_image():
    whole = encoded(detailed(1), quality=90)
    small = thumbnail(whole[: len(whole) // 2])
    assert small is not None
    shown = np.asarray(Image.open(io.BytesIO(small)), np.float64)
    expected = np.asarray(Image.open(io.BytesIO(whole)).resize((THUMBNAIL, THUMBNAIL)), np.float64)
    # The upper third is whole; scaling in two ways and encoding again differ by a few levels.
    assert np.abs(shown[:30] - expected[:30]).mean() < 6
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(whole[: len(whole) // 2])).load()  # the switch is back


def test_there_is_no_thumbnail_of_rubbish():
    assert thumbnail(b"rubbish") is None
