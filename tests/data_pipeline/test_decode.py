"""Pixels from DALI, compared with Pillow and with themselves in other batches."""

import gc
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.augment import Augmentation, Parameters
from data_pipeline.decode import Decoder, UndecodableError
from tests.data_pipeline.faces import jpeg, pixels

FACES = [jpeg(seed) for seed in range(8)]
COLOURED = Augmentation(flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3)
EVERYTHING = Augmentation(flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3, crop=0.3)


def decoder(augmentation=Augmentation(), *, image_size=32, resizes=False, threads=1, batch_size=8):  # noqa: B008 - frozen
    return Decoder(
        batch_size=batch_size,
        image_size=image_size,
        augmentation=augmentation,
        resizes=resizes,
        device="cpu",
        threads=threads,
    )


def neutral(count: int, **changed: float) -> Parameters:
    """Parameters that change nothing, but for the columns given one value."""
    zeros = np.zeros(count, np.int64)
    plain = Augmentation().parameters(zeros, zeros)
    return replace(
        plain, **{k: np.full_like(getattr(plain, k), value) for k, value in changed.items()}
    )


def decode(made: Decoder, contents: list[bytes], parameters: Parameters) -> torch.Tensor:
    made.submit(contents, parameters)
    return made.collect()


def levels(image: torch.Tensor) -> np.ndarray:
    """Back to 0..255, height x width x RGB, in float64."""
    return (image.double().numpy() * 127.5 + 127.5).transpose(0, 2, 3, 1)


def with_parameters(made: Decoder, augmentation: Augmentation, chosen: list[int]) -> torch.Tensor:
    sample = np.array(chosen)
    parameters = augmentation.parameters(np.full_like(sample, 2), sample)
    return decode(made, [FACES[i] for i in chosen], parameters)


def test_pixels_are_pillows_scaled_to_plus_minus_one_in_rgb_order():
    image = decode(decoder(), FACES, neutral(8))
    assert image.shape == (8, 3, 32, 32)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    expected = np.stack([pixels(content) for content in FACES])
    # Both decode with libjpeg-turbo's accurate transform, so the 8-bit levels agree; a float32
    # near 1 is exact to 6e-8, which is 8e-6 levels.
    np.testing.assert_allclose(levels(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("augmentation", [COLOURED, EVERYTHING], ids=["coloured", "everything"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pixels_do_not_depend_on_place_neighbours_or_threads(augmentation, threads):
    alone = [
        with_parameters(decoder(augmentation, batch_size=1), augmentation, [i])[0] for i in range(8)
    ]
    for chosen in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 3, 0], [5, 5, 1, 5], [2]):
        image = with_parameters(decoder(augmentation, threads=threads), augmentation, chosen)
        for place, number in enumerate(chosen):
            assert torch.equal(image[place], alone[number])


def test_a_flip_mirrors_the_columns_exactly():
    made = decoder()
    image = decode(made, FACES, neutral(8))
    parameters = replace(neutral(8), flip=np.array([0, 1] * 4, np.int32))
    flipped = decode(made, FACES, parameters)
    assert torch.equal(flipped[0::2], image[0::2])
    assert torch.equal(flipped[1::2], image[1::2].flip(-1))


def test_colours_follow_their_formulas_without_rounding_or_clipping():
    made = decoder(COLOURED)
    plain = levels(decode(made, FACES, neutral(8)))
    bright = levels(decode(made, FACES, neutral(8, brightness=1.25)))
    # float32 through a 3 x 3 matrix: a few units of 255 * 6e-8.
    np.testing.assert_allclose(bright, plain * 1.25, rtol=0, atol=2e-4)
    assert bright.max() > 256
    contrast = levels(decode(made, FACES, neutral(8, contrast=0.8)))
    np.testing.assert_allclose(contrast, (plain - 128) * 0.8 + 128, rtol=0, atol=2e-4)
    saturation = levels(decode(made, FACES, neutral(8, saturation=0.7)))
    grey = plain @ np.array([0.299, 0.587, 0.114])
    # DALI goes through a rounded YIQ matrix, so a grey level differs by up to 0.4 of 255.
    expected = grey[..., None] + 0.7 * (plain - grey[..., None])
    np.testing.assert_allclose(saturation, expected, rtol=0, atol=0.5)


@pytest.mark.parametrize("image_size", [20, 48])
def test_other_sizes_are_resized_as_pillow_does(image_size):
    contents = [jpeg(1), jpeg(2, height=40, width=36), jpeg(3, height=24, width=56)]
    image = decode(decoder(image_size=image_size, resizes=True), contents, neutral(3))
    expected = [
        np.asarray(
            Image.open(io.BytesIO(content)).resize(
                (image_size, image_size), Image.Resampling.BILINEAR
            )
        )
        for content in contents
    ]
    # Both use a triangle as wide as the shrinking asks; each rounds to 8 bits: one level.
    np.testing.assert_allclose(levels(image), np.stack(expected), rtol=0, atol=1.001)


def test_a_window_is_cut_out_and_resized():
    parameters = replace(
        neutral(2),
        window_start=np.array([[0.125, 0.0625], [0, 0.25]], np.float32),
        window_stop=np.array([[0.875, 0.8125], [0.75, 1]], np.float32),
    )
    image = decode(decoder(Augmentation(crop=0.3)), FACES[:2], parameters)
    boxes = [(2, 4, 26, 28), (8, 0, 32, 24)]  # left, top, right, bottom of 32
    expected = [
        np.asarray(
            Image.open(io.BytesIO(content)).resize((32, 32), Image.Resampling.BILINEAR, box=box)
        )
        for content, box in zip(FACES, boxes, strict=False)
    ]
    # The same filter and one rounding to 8 bits on each side: one level.
    np.testing.assert_allclose(levels(image), np.stack(expected), rtol=0, atol=1.001)


def test_batches_handed_out_are_never_written_again():
    made = decoder(COLOURED)
    kept = [with_parameters(made, COLOURED, [(i + k) % 8 for k in range(8)]) for i in range(12)]
    copies = [image.clone() for image in kept]
    assert len({image.data_ptr() for image in kept}) == len(kept)
    with_parameters(made, COLOURED, [3] * 8)
    made.close()
    del made
    gc.collect()
    again = decoder(COLOURED)
    for _ in range(12):
        with_parameters(again, COLOURED, [7] * 8)
    for image, copy in zip(kept, copies, strict=True):
        assert torch.equal(image, copy)


def test_grey_and_progressive_and_png_images_become_rgb():
    grey = jpeg(5, mode="L")
    others = []
    for options in ({"format": "JPEG", "progressive": True, "quality": 90}, {"format": "PNG"}):
        content = io.BytesIO()
        Image.open(io.BytesIO(FACES[0])).save(content, **options)
        others.append(content.getvalue())
    image = decode(decoder(), [grey, *others], neutral(3))
    expected = np.stack([pixels(content) for content in (grey, *others)])
    np.testing.assert_allclose(levels(image), expected, rtol=0, atol=1e-5)  # as above


BAD = {
    "empty": b"",
    "garbage": bytes(range(200)),
    "cut": FACES[0][: len(FACES[0]) // 2],
    "text": b"not an image",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_an_undecodable_image_is_found_among_the_good_ones(bad):
    made = decoder(EVERYTHING)
    contents = [FACES[0], FACES[1], bad, FACES[3], bad]
    sample = np.arange(5)
    parameters = EVERYTHING.parameters(sample, sample)
    with pytest.raises(UndecodableError):
        decode(made, contents, parameters)
    assert made.undecodable(contents, parameters) == [2, 4]
    after = with_parameters(made, EVERYTHING, [0, 1, 2])
    assert torch.equal(after, with_parameters(decoder(EVERYTHING), EVERYTHING, [0, 1, 2]))


def test_an_image_of_another_size_is_refused_where_the_dataset_promised_one_size():
    made = decoder()
    contents = [FACES[0], jpeg(9, height=40)]
    with pytest.raises(UndecodableError, match="40"):
        decode(made, contents, neutral(2))
    assert made.undecodable(contents, neutral(2)) == [1]


def test_a_decoder_that_fails_on_a_good_image_blames_none(monkeypatch):
    made = decoder()

    def out_of_memory() -> None:
        raise UndecodableError("out of memory")

    monkeypatch.setattr(made, "collect", out_of_memory)
    assert made.undecodable(FACES, neutral(8)) == []


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_close_ends_dalis_threads_even_with_a_batch_under_way():
    before = native_threads()
    made = decoder(threads=3)
    made.submit(FACES, neutral(8))
    assert native_threads() > before
    made.close()
    gc.collect()
    assert native_threads() == before
