import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline.duplicates import MAX_COARSE, MAX_DISTANCE
from data_pipeline.fingerprint import digest_of, look_of
from tests.data_pipeline.pictures import detailed, encoded, jpeg


def differing(one, other):
    """(bits of the first word, of all words) in which two looks differ."""
    bits = [(a ^ b).bit_count() for a, b in zip(look_of(one), look_of(other), strict=True)]
    return bits[0], sum(bits)


def alike(one, other):
    """What `find_duplicates` reports."""
    return all(np.less_equal(differing(one, other), (MAX_COARSE, MAX_DISTANCE)))


@pytest.mark.parametrize("seed", range(10))
def test_saving_or_scaling_a_picture_again_hardly_changes_its_look(seed):
    original = encoded(detailed(seed), quality=95)
    with Image.open(io.BytesIO(original)) as image:
        again = encoded(image, quality=80)
        larger = encoded(image.resize((160, 160)), quality=95)
        smaller = encoded(image.resize((75, 75)), quality=95)
    assert alike(original, again)
    assert alike(original, larger)
    assert alike(original, smaller)


def test_other_pictures_differ_in_about_half_of_the_bits():
    looks = [encoded(detailed(seed), quality=95) for seed in range(20)]
    distances = np.array([differing(a, b) for i, a in enumerate(looks) for b in looks[:i]])
    # 255 fair coins: 127.5 expected, standard deviation 8, of the mean of 190 pairs below 2.
    assert 120 < distances[:, 1].mean() < 135
    assert not any(alike(a, b) for i, a in enumerate(looks) for b in looks[:i])


def test_the_digest_is_of_the_bytes():
    assert digest_of(jpeg(1)) == digest_of(jpeg(1))
    assert digest_of(jpeg(1)) != digest_of(jpeg(1) + b"\0")
    assert all(0 <= half < 2**64 for half in digest_of(b""))


def test_pictures_without_any_detail_look_alike_whatever_their_form():
    blank = np.full((112, 112, 3), 77, np.uint8)
    assert look_of(encoded(blank)) == look_of(encoded(blank[:64], quality=50))
    assert look_of(encoded(blank)) == look_of(encoded(Image.fromarray(blank).convert("L")))
