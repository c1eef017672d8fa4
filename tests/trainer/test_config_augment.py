"""Augmentation in run files: presets, changes to them, and the fields that there always were."""

from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest

from data_pipeline.augment import Augmentation
from data_pipeline.presets import PRESETS
from trainer import build, config
from trainer.config_augment import AugmentConfig
from trainer.errors import RunError, RunFileError


def made(augment: dict) -> Augmentation:
    tree = {"name": "x", "steps": 10, "seed": 4, "data": {"path": "faces", "augment": augment}}
    return build.augmentation(config.from_tree(tree, source="run.yaml"))


def test_every_preset_may_be_named_and_no_other():
    assert set(get_args(get_type_hints(AugmentConfig)["preset"])) == set(PRESETS)
    for name, augmentation in PRESETS.items():
        assert made({"preset": name}) == replace(augmentation, seed=4)
    with pytest.raises(RunFileError, match=r"data\.augment\.preset"):
        made({"preset": "weak"})


def test_every_strength_may_be_changed():
    names = {field.name for field in fields(Augmentation)} - {"seed"}
    assert {field.name for field in fields(AugmentConfig)} == names | {"preset"}


def test_a_run_file_that_names_no_preset_means_what_it_always_meant():
    assert made({}) == Augmentation(flip=0.5, seed=4)
    old: dict[str, Any] = {
        "flip": 0.25,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "crop": 0.15,
    }
    assert made(old) == Augmentation(**old, seed=4)
    assert made({"flip": 0}) == Augmentation(seed=4)


def test_changes_are_made_to_the_preset_and_to_nothing_else_of_it():
    changed = {"blackout": 0, "low_resolution_sides": [0.5, 0.9], "jpeg_qualities": [40, 80]}
    expected = replace(
        PRESETS["adaface"],
        blackout=0.0,
        low_resolution_sides=(0.5, 0.9),
        jpeg_qualities=(40, 80),
        seed=4,
    )
    assert made({"preset": "adaface"} | changed) == expected


@pytest.mark.parametrize(
    ("augment", "told"),
    [
        ({"mask": 0.6, "occlusion": 0.6}, "data.augment: blackout, occlusion and mask sum to 1.2"),
        ({"low_resolution_sides": [0.9, 0.2]}, "data.augment: low_resolution_sides is 0.9 to 0.2"),
    ],
)
def test_changes_that_do_not_go_together_are_told_with_their_place(augment, told):
    with pytest.raises(RunError) as caught:
        made(augment)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "augment", [{"mask": 1.5}, {"crop": 0.5}, {"jpeg_qualities": [0, 50]}, {"blur_sigmas": [1]}]
)
def test_strengths_out_of_range_are_refused_with_their_path(augment):
    (name,) = augment
    with pytest.raises(RunFileError, match=rf"run\.yaml: data\.augment\.{name}"):
        made(augment)
