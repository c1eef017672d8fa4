"""Pixels from DALI, compared with Pillow and with themselves in other batches."""

import gc
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.augment import FILTERS, Augmentation, Parameters
from data_pipeline.decode import Decoder, UndecodableError
from data_pipeline.presets import PRESETS
from tests.data_pipeline.faces import jpeg, pixels

FACES = [jpeg(seed) for seed in range(8)]
COLOURED = Augmentation(flip=0.5, brightness=0.3, contrast=0.3, saturation=0.3)
EVERYTHING = Augmentation(
    crop=0.3,
    blackout=0.2,
    occlusion=0.2,
    mask=0.2,
    low_resolution=0.5,
    blur=0.5,
    jpeg=0.5,
    recolour=0.7,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue_deg=20.0,
    grey=0.2,
    flip=0.5,
)


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


def chosen(flag: str, **changed: float) -> Parameters:
    """Neutral parameters of eight faces, but every second face has the flag and these values."""
    half = np.arange(8) % 2 == 1
    return replace(neutral(8, **changed), **{flag: half})


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

    def recoloured(**changed: float) -> np.ndarray:
        return levels(decode(made, FACES, neutral(8, recoloured=True, **changed)))

    def same(found: np.ndarray, expected: np.ndarray) -> None:
        # float32 through a 3 x 3 matrix: a few units of 255 * 6e-8.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)

    bright = recoloured(brightness=1.25)
    same(bright, plain * 1.25)
    assert bright.max() > 256
    same(recoloured(contrast=0.8), (plain - 127.5) * 0.8 + 127.5)
    grey = np.expand_dims(plain @ np.array([0.299, 0.587, 0.114]), -1)
    same(recoloured(saturation=0.7), grey + 0.7 * (plain - grey))
    same(recoloured(saturation=0.0), np.broadcast_to(grey, plain.shape))
    both = recoloured(brightness=1.1, contrast=0.9)
    same(both, (plain * 1.1 - 127.5) * 0.9 + 127.5)
    assert torch.equal(decode(made, FACES, neutral(8)), decode(decoder(), FACES, neutral(8)))


STEPS = {  # what is asked for, the flag of a face, and values that change it
    "cover": (Augmentation(mask=0.5), "covered", {"cover_stop": 0.5}),
    "low resolution": (Augmentation(low_resolution=0.5), "shrunk", {"shrunk_side": 0.3}),
    "blur": (Augmentation(blur=0.5), "blurred", {"blur_sigma": 1.5}),
    "jpeg": (Augmentation(jpeg=0.5), "compressed", {"jpeg_quality": 20}),
    "colours": (Augmentation(brightness=0.3), "recoloured", {"brightness": 1.2}),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_changes_the_faces_chosen_and_no_other(step):
    augmentation, flag, changed = STEPS[step]
    plain = decode(decoder(), FACES, neutral(8))
    image = decode(decoder(augmentation), FACES, chosen(flag, **changed))
    assert torch.equal(image[0::2], plain[0::2])
    for place in range(1, 8, 2):
        assert not torch.equal(image[place], plain[place])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_step_may_see_no_face_or_all(share):
    for augmentation, flag, changed in STEPS.values():
        parameters = replace(neutral(8, **changed), **{flag: np.full(8, share == 1)})
        image = decode(decoder(augmentation), FACES, parameters)
        plain = decode(decoder(), FACES, neutral(8))
        assert torch.equal(image, plain) == (share == 0)


def test_covers_are_painted_over_their_pixels_alone():
    start, stop = (np.zeros_like(neutral(8).cover_start) for _ in range(2))
    start[:, 0], stop[:, 0] = (0.25, 0.125), (0.5, 0.75)
    start[:, 3], stop[:, 3] = (0.75, 0.0), (1.0, 1.0)
    parameters = replace(
        neutral(8, covered=True),
        cover_start=start,
        cover_stop=stop,
        cover_colour=np.tile(np.array([10, 200, 30], np.float32), (8, 1)),
    )
    expected = levels(decode(decoder(), FACES, neutral(8)))
    expected[:, 8:16, 4:24] = expected[:, 24:32] = (10, 200, 30)
    image = levels(decode(decoder(Augmentation(occlusion=0.5)), FACES, parameters))
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)  # levels, as above


def test_low_resolution_halves_to_means_of_four_and_grows_linearly():
    parameters = neutral(8, shrunk=True, shrunk_side=0.5, shrinking_filter=1, growing_filter=1)
    image = levels(decode(decoder(Augmentation(low_resolution=1.0)), FACES, parameters))
    for levels_of_one, content in zip(image, FACES, strict=True):
        small = Image.fromarray(pixels(content)).resize((16, 16), Image.Resampling.BOX)
        expected = small.resize((32, 32), Image.Resampling.BILINEAR)
        # Two roundings to 8 bits on each side; the second may see values that differ by one.
        np.testing.assert_allclose(levels_of_one, np.asarray(expected), rtol=0, atol=2.001)


@pytest.mark.parametrize("how", range(FILTERS))
def test_every_filter_keeps_a_smooth_picture_alike(how):
    ramp = np.tile(np.linspace(20, 230, 32).astype(np.uint8)[None, :, None], (32, 1, 3))
    content = io.BytesIO()
    Image.fromarray(ramp).save(content, "PNG")
    parameters = neutral(1, shrunk=True, shrunk_side=0.5, shrinking_filter=how, growing_filter=how)
    image = levels(
        decode(decoder(Augmentation(low_resolution=1.0)), [content.getvalue()], parameters)
    )[0]
    # A pixel of the small picture stands for two of the ramp's: 6.8 levels each, so any value that
    # a filter gives lies within two pixels' steps; at the edge a filter may overshoot a little.
    assert np.abs(image - ramp).max() < 2 * 6.8 + 3


def test_blur_keeps_the_mean_and_takes_the_contrast():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    parameters = neutral(1, blurred=True, blur_sigma=1.5)
    image = levels(decode(decoder(Augmentation(blur=1.0)), [content.getvalue()], parameters))[0]
    # Independent pixels under a Gaussian of sigma s keep 1 / (2 s sqrt(pi)) of their deviation:
    # 0.188; correlated neighbours and the border make the estimate vary by a tenth or so.
    assert 0.15 < image.std() / noise.std() < 0.24
    assert abs(image.mean() - noise.mean()) < 2  # the border counts twice


def test_jpeg_artefacts_grow_as_the_quality_falls():
    made = decoder(Augmentation(jpeg=1.0))
    plain = levels(decode(made, FACES, neutral(8)))
    error = [
        np.abs(levels(decode(made, FACES, neutral(8, compressed=True, jpeg_quality=q))) - plain)
        for q in (95, 50, 10)
    ]
    assert 0 < error[0].mean() < error[1].mean() < error[2].mean()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_pixels_of_every_preset_do_not_depend_on_the_batch(preset):
    augmentation = replace(PRESETS[preset], seed=3)
    together = with_parameters(decoder(augmentation, threads=2), augmentation, list(range(8)))
    apart = decoder(augmentation)
    for first in range(0, 8, 2):
        part = with_parameters(apart, augmentation, [first + 1, first])
        assert torch.equal(part, together[[first + 1, first]])


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


def test_memory_is_used_again_once_a_batch_and_its_views_are_forgotten():
    made = decoder()
    image = decode(made, FACES, neutral(8))
    view, place = image[2:], image.data_ptr()
    copy = view.clone()
    del image
    while_viewed = decode(made, FACES[::-1], neutral(8))
    assert while_viewed.data_ptr() != place
    assert torch.equal(view, copy)
    del view
    assert decode(made, FACES, neutral(8)).data_ptr() == place


def test_two_batches_may_be_under_way_and_come_back_in_turn():
    made = decoder(EVERYTHING)
    first = with_parameters(made, EVERYTHING, [0, 1, 2])
    second = with_parameters(made, EVERYTHING, [4, 5])
    sample, epoch = np.arange(6), np.full(6, 2)
    made.submit(FACES[:3], EVERYTHING.parameters(epoch[:3], sample[:3]))
    made.submit(FACES[4:6], EVERYTHING.parameters(epoch[:2], sample[4:]))
    assert torch.equal(made.collect(), first)
    assert torch.equal(made.collect(), second)


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


def test_a_failure_loses_all_that_is_under_way_and_nothing_after_it():
    made = decoder(EVERYTHING)
    sample = np.arange(2)
    parameters = EVERYTHING.parameters(sample, sample)
    made.submit(FACES[:2], parameters)
    made.submit([FACES[0], b"not an image"], parameters)
    with pytest.raises(UndecodableError):
        [made.collect() for _ in range(2)]
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
