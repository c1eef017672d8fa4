"""The matrix of a face's colours, against the words of what each change means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.colours import LUMA, transform
from data_pipeline.pixels import recolour

FACTORS = st.floats(0.5, 1.5, width=32)


def made(*, brightness=1.0, contrast=1.0, saturation=1.0, hue_deg=0.0):
    columns = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue_deg": hue_deg,
    }
    matrix, offset = transform(**{k: np.array([v], np.float32) for k, v in columns.items()})
    return matrix[0].astype(float), float(offset[0])


def test_nothing_changed_is_the_identity():
    matrix, offset = made()
    # Products with an inverse in float64, rounded once to float32.
    np.testing.assert_allclose(matrix, np.eye(3), rtol=0, atol=1e-7)
    assert offset == 0


@given(brightness=FACTORS, contrast=FACTORS, saturation=FACTORS, hue=st.floats(-180, 180, width=32))
def test_greys_stay_grey_and_follow_brightness_and_contrast(brightness, contrast, saturation, hue):
    matrix, offset = made(
        brightness=brightness, contrast=contrast, saturation=saturation, hue_deg=hue
    )
    for level in (0.0, 100.0, 127.5, 255.0):
        z = np.full(3, level / 127.5 - 1)
        expected = 127.5 + contrast * (brightness * level - 127.5)
        found = 127.5 * (matrix @ z + offset + 1)
        # float32 entries up to 2.25, of levels up to 255.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


@given(saturation=FACTORS, hue=st.floats(-180, 180, width=32))
def test_neither_saturation_nor_hue_changes_how_bright_a_colour_is(saturation, hue):
    matrix, _ = made(saturation=saturation, hue_deg=hue)
    # float32 entries of a size around 1.
    np.testing.assert_allclose(np.array(LUMA) @ matrix, LUMA, rtol=0, atol=3e-7)


@pytest.mark.parametrize("turns", [2, 3, 6])
def test_turns_of_the_hue_add_up_to_a_full_one(turns):
    matrix, _ = made(hue_deg=360 / turns)
    np.testing.assert_allclose(np.linalg.matrix_power(matrix, turns), np.eye(3), rtol=0, atol=1e-5)


def test_a_turn_by_a_third_makes_red_a_colour_of_another_kind():
    matrix, _ = made(hue_deg=120.0)
    red = np.array([1.0, 0.0, 0.0])
    assert np.argmax(matrix @ red) != 0


def test_only_the_chosen_faces_change():
    random = np.random.default_rng(0)
    pixels = random.uniform(-1, 1, (4, 3, 5, 6)).astype(np.float32)
    matrix = random.normal(size=(2, 3, 3)).astype(np.float32)
    offset = random.normal(size=2).astype(np.float32)
    chosen, expected = np.array([0, 3]), pixels.astype(float)
    expected[chosen] = np.einsum("bcd,bdhw->bchw", matrix.astype(float), expected[chosen])
    expected[chosen] += offset.astype(float)[:, None, None, None]
    recolour(pixels, chosen, matrix, offset)
    # Three products and four sums of float32 numbers up to about 5.
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=5e-6)
