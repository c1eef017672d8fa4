"""From a run file to the head's margin: every margin, its defaults, ranges and refusals."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from sharded_fc import margins as library
from sharded_fc.margins import AdaFace, ArcFace, CosFace, MagFace, Margin
from tests.trainer import toy
from trainer import config
from trainer.config_head import ClassMarginsConfig, HeadConfig
from trainer.config_margin import CosFaceConfig, MagFaceConfig, MarginConfig, UniFaceConfig
from trainer.errors import RunError, RunFileError
from trainer.margins import MARGINS, class_margins, make_margin, margin_state

CONFIGS = get_args(get_args(MarginConfig)[0])


def load(folder: Path, head: dict[str, Any]) -> HeadConfig:
    tree = {"name": "a", "steps": 3, "data": {"path": "faces"}, "head": head}
    return config.from_tree(tree, source=str(folder)).head


def test_every_margin_of_the_library_has_a_name_in_run_files_and_no_other():
    offered = {
        value
        for name in library.__all__
        if isinstance(value := getattr(library, name), type) and issubclass(value, Margin)
    }
    assert set(MARGINS.values()) == offered - {Margin}
    assert {kind().name for kind in CONFIGS} == set(MARGINS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_margin_has_every_field_of_its_class_and_the_same_defaults(kind: type[Any]):
    """CosFace's 0.4 is the run files' own: what public recipes train with."""
    margin = make_margin(kind())
    wanted = type(margin)(**({"margin": 0.4} if kind is CosFaceConfig else {}))
    assert margin == wanted
    named = {name.removesuffix("_rad") for name in asdict(kind())} - {"name"}
    assert named == set(vars(margin))


def test_a_margin_is_chosen_by_its_name_and_keeps_what_the_file_says(tmp_path: Path):
    head = load(tmp_path, {"margin": {"name": "adaface", "margin": 0.3, "rate": 0.5}})
    assert make_margin(head.margin) == AdaFace(0.3, rate=0.5)
    head = load(tmp_path, {"margin": {"name": "arcface", "margin_rad": 0.25}})
    assert make_margin(head.margin) == ArcFace(0.25)


@pytest.mark.parametrize(
    ("name", "instead"),
    [("SphereFace2", "UniFace"), ("circle", "CurricularFace"), ("adacos", "NormFace")],
)
def test_what_the_head_cannot_do_is_refused_with_the_reason(
    tmp_path: Path, name: str, instead: str
):
    with pytest.raises(RunFileError, match=rf"head\.margin: .*use {instead}"):
        load(tmp_path, {"margin": {"name": name}})


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"margin": {"name": "acface"}}, "head.margin: Input tag 'acface'"),
        ({"margin": {"name": "arcface", "margin_rad": 1.6}}, "head.margin.arcface.margin_rad: "),
        ({"margin": {"name": "sphereface", "margin": 0.9}}, "head.margin.sphereface.margin: "),
        ({"clip_norm": 5.0}, "use clip_row_norm, which bounds each row's"),
        ({"optimizer": "lamb"}, "head.optimizer: "),
        ({"betas": [0.9, 1.0]}, "head.betas.1: "),
        ({"storage": "fp64"}, "head.storage: "),
        ({"learning_rate_ratios": [[0, 10, -1]]}, "head.learning_rate_ratios.0.2: "),
        ({"class_margins": {"highest": 0.2, "lowest": 0.3}}, "lowest = 0.3 is above highest"),
    ],
)
def test_a_head_out_of_range_is_refused_with_its_path(tmp_path: Path, head: dict, told: str):
    with pytest.raises(RunFileError) as caught:
        load(tmp_path, head)
    assert told in str(caught.value)


def test_numbers_that_do_not_go_together_are_refused_in_one_line():
    with pytest.raises(RunError, match=r"head\.margin: MagFace norms from 120\.0 to 110\.0"):
        make_margin(MagFaceConfig(lowest_norm=120.0))


def test_the_fewest_images_get_the_largest_margin():
    """LDAM: sixteen times the images, half the margin; the floor holds."""
    images = np.array([16, 1, 256, 10_000])
    chosen = ClassMarginsConfig(highest=0.4, lowest=0.05)
    found = class_margins(chosen, CosFace(0.35), images)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.4, 0.1, 0.05]))


def test_class_margins_need_a_margin_with_a_number_in_range():
    images = np.array([1, 2])
    with pytest.raises(RunError, match="MagFace has no margin for each class"):
        class_margins(ClassMarginsConfig(highest=0.4), MagFace(), images)
    with pytest.raises(RunError, match=r"head\.class_margins\.highest: CosFace margin 1\.2"):
        class_margins(ClassMarginsConfig(highest=1.2), CosFace(), images)


def carried(chosen: MarginConfig) -> dict[str, float]:
    head = toy.head(margin=make_margin(chosen))
    embedding = toy.centres(4).requires_grad_()
    head(embedding, torch.arange(4)).loss.backward()
    return margin_state(head)


def test_only_the_margins_own_scalars_are_told(ranks):
    (found,) = ranks(1).run(carried, UniFaceConfig(initial_bias=2.0))
    assert set(found) == {"bias"}
    assert found["bias"] != 2.0
    assert ranks(1).run(carried, CosFaceConfig()) == [{}]
