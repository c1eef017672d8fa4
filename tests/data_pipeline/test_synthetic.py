import io
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.synthetic import SyntheticSource, draw, synthesize
from data_pipeline.synthetic_portrait import portray
from data_pipeline.synthetic_traits import Conditions, Traits, conditions, traits

SIZE = 48


def _middle(record):
    """The record with every field in the middle of its range."""
    return record(**{f.name: (f.metadata["low"] + f.metadata["high"]) / 2 for f in fields(record)})


# Nothing in the way, mouth ajar, something on the wall; every mark on a face without a beard.
PLAIN = replace(
    _middle(Conditions), light_strength=0.3, mouth_open=0.8, blur=0.5, backdrop_change=0.5
)
MARKED = replace(_middle(Traits), freckles=0.5, mole_size=0.04, mole_across=0.2)
# A number that only shows when something else is in the picture.
SHOWN_BY = {
    "beard_height": {"beard": 0.5},
    "bridge_width": {"bridge_contrast": 0.26},
    "glasses_size": {"glasses": 0.1},
    "glasses_tone": {"glasses": 0.1},
    "hat_height": {"hat": 0.0},
    "hat_red": {"hat": 0.0},
    "hat_green": {"hat": 0.0},
    "hat_blue": {"hat": 0.0},
    "cover_x": {"cover": 0.1},
    "cover_y": {"cover": 0.1},
    "cover_size": {"cover": 0.1},
    "cover_turn": {"cover": 0.0, "cover_x": 0.3},
    "cover_tone": {"cover": 0.1},
}


def _portray(person, scene):
    return portray(person, scene, size=SIZE, noise_key=(0,)).astype(int)


def test_a_picture_is_a_function_of_seed_identity_and_image():
    first = draw(3, 4, size=SIZE, seed=5)
    draw(7, 8, size=SIZE, seed=9)
    np.testing.assert_array_equal(first, draw(3, 4, size=SIZE, seed=5))
    for other in (draw(2, 4, size=SIZE, seed=5), draw(3, 5, size=SIZE, seed=5)):
        assert (first != other).mean() > 0.5
    assert (first != draw(3, 4, size=SIZE, seed=6)).mean() > 0.5


@pytest.mark.parametrize("size", [32, 64, 112])
def test_a_picture_is_a_square_of_bytes_at_any_size(size):
    picture = draw(0, 0, size=size, seed=0)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10  # something is on it


def test_the_same_scene_at_twice_the_size_is_the_same_scene():
    # Against 2 x 2 means of the large one. Grain is a pixel's own, so it is off; the rest differs
    # at edges only: by 1.0 grey values on average, where two people are 40 apart.
    scene = replace(PLAIN, noise=0.0, blur=0.0)
    small = portray(MARKED, scene, size=56, noise_key=(0,)).astype(float)
    large = portray(MARKED, scene, size=112, noise_key=(0,)).astype(float)
    halved = large.reshape(56, 2, 56, 2, 3).mean((1, 3))
    assert np.abs(small - halved).mean() < 2


def test_traits_stay_and_conditions_change_from_picture_to_picture():
    assert traits(1, 2) == traits(1, 2)
    assert conditions(1, 2, 3) == conditions(1, 2, 3)
    here, there = conditions(1, 2, 3), conditions(1, 2, 4)
    assert all(getattr(here, f.name) != getattr(there, f.name) for f in fields(Conditions))
    person, other = traits(1, 2), traits(1, 3)
    assert all(getattr(person, f.name) != getattr(other, f.name) for f in fields(Traits))


@pytest.mark.parametrize("record", [traits, lambda seed, n: conditions(seed, 0, n)])
def test_every_number_stays_in_its_range_and_fills_it(record):
    drawn = [record(0, n) for n in range(400)]
    for column in fields(drawn[0]):
        low, high = column.metadata["low"], column.metadata["high"]
        values = np.array([getattr(one, column.name) for one in drawn])
        assert low <= values.min()
        assert values.max() < high
        # 400 draws leave the outer tenths empty with probability 0.9^400 (flat) or 0.98^400 = 3e-4
        # (peaked: a triangle has 2 % of its mass there).
        assert values.min() < low + 0.1 * (high - low)
        assert values.max() > high - 0.1 * (high - low)


@pytest.mark.parametrize("name", [f.name for f in fields(Traits)])
def test_every_trait_shows_in_the_picture(name):
    column = Traits.__dataclass_fields__[name]
    person = replace(MARKED, **SHOWN_BY.get(name, {}))
    low = replace(person, **{name: column.metadata["low"]})
    high = replace(person, **{name: column.metadata["high"]})
    changed = np.abs(_portray(low, PLAIN) - _portray(high, PLAIN)).max(2)
    assert (changed > 10).sum() >= 3  # of 2,304 pixels: a mole is that small


@pytest.mark.parametrize("name", [f.name for f in fields(Conditions)])
def test_every_condition_shows_in_the_picture(name):
    column = Conditions.__dataclass_fields__[name]
    scene = replace(PLAIN, **SHOWN_BY.get(name, {}))
    low = replace(scene, **{name: column.metadata["low"]})
    high = replace(scene, **{name: column.metadata["high"]})
    changed = np.abs(_portray(MARKED, low) - _portray(MARKED, high)).max(2)
    assert (changed > 10).sum() >= 3


def test_noise_has_the_strength_that_it_says():
    # A grey wall without light, cast or contrast: the spread of the pixels is the noise, rounded to
    # bytes. 3 x 48 x 24 pixels estimate a standard deviation to about 1 %; 5 % is asked.
    scene = replace(PLAIN, light_strength=0.0, noise=0.05, blur=-0.5, backdrop_change=0.0)
    quiet = replace(scene, noise=0.0)
    grain = (_portray(MARKED, scene) - _portray(MARKED, quiet))[:, :10]
    assert grain.std() == pytest.approx(0.05 * 255, rel=0.05)


def test_synthesis_packs_every_picture_of_every_person_once(tmp_path):
    dataset = synthesize(tmp_path / "faces", identities=5, images=3, size=32, seed=1)
    assert (dataset.num_identities, dataset.num_samples) == (5, 15)
    assert dataset.image_size == (32, 32)
    np.testing.assert_array_equal(np.bincount(dataset.labels()), [3] * 5)


def test_synthesis_writes_the_same_bytes_in_any_number_of_processes(tmp_path):
    for folder, processes in (("one", 1), ("two", 2)):
        synthesize(tmp_path / folder, identities=3, images=4, size=32, seed=1, processes=processes)
    one, two = (Dataset.open(tmp_path / folder) for folder in ("one", "two"))
    assert [s.sha256 for s in one.shards] == [s.sha256 for s in two.shards]


def test_a_source_reads_what_is_drawn_within_the_loss_of_jpeg():
    source = SyntheticSource(identities=2, images=2, size=64, seed=3, first_identity=10)
    assert list(source) == [("10", "0"), ("10", "1"), ("11", "0"), ("11", "1")]
    decoded = np.asarray(Image.open(io.BytesIO(source.read("11", "1"))), int)
    # Quality 92 loses about 2 grey values on grainy pictures; other pictures are 40 away.
    assert np.abs(decoded - draw(11, 1, size=64, seed=3)).mean() < 5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"identities": 0}, "identities must be at least 1, not 0"),
        ({"images": -1}, "images must be at least 1, not -1"),
        ({"size": 8}, "size must be from 16 to 1024 pixels, not 8"),
        ({"first_identity": -1}, "first_identity must not be negative, but is -1"),
    ],
)
def test_impossible_requests_are_refused_with_the_number(wrong, message):
    right = {"identities": 1, "images": 1, "size": 32, "seed": 0}
    with pytest.raises(DataError, match=message):
        SyntheticSource(**{**right, **wrong})
