"""The named sets of strengths are what their names say."""

from dataclasses import asdict

import pytest

from data_pipeline.augment import Augmentation
from data_pipeline.presets import PRESETS


def test_none_and_flip_do_no_more_than_that():
    assert PRESETS["none"] == Augmentation()
    assert PRESETS["flip"] == Augmentation(flip=0.5)


def test_adaface_is_the_papers_set():
    """arXiv:2204.00964: crop, low resolution and colours, each on a fifth of the faces."""
    adaface = asdict(PRESETS["adaface"])
    changed = {k: v for k, v in adaface.items() if v != asdict(Augmentation())[k]}
    assert changed == {
        "flip": 0.5,
        "blackout": 0.2,
        "low_resolution": 0.2,
        "recolour": 0.2,
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.5,
    }
    assert adaface["low_resolution_sides"] == (0.2, 1.0)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"none"}))
def test_every_set_but_none_mirrors_half_of_the_faces_and_leaves_the_seed_to_the_run(name):
    assert PRESETS[name].flip == 0.5
    assert PRESETS[name].seed == 0
