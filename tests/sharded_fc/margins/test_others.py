"""MV-softmax, UniFace and the plain softmax, and the losses that are left out by name."""

import math

import pytest
import torch

from sharded_fc import margins
from sharded_fc.margins import CombinedMargin, MVSoftmax, PlainSoftmax, SphereFace, UniFace
from tests.sharded_fc.margins.batches import adjust, samples


def test_a_hard_negative_of_mv_softmax_is_t_c_plus_t_minus_one():
    hard = adjust(MVSoftmax(0.35, hardness=1.12), samples([0.6])).hard
    assert hard is not None
    assert hard.threshold.item() == pytest.approx(0.25)
    changed = hard.constant + hard.linear * 0.5 + hard.square * 0.25
    assert changed.item() == pytest.approx(1.12 * 0.5 + 0.12, abs=1e-15)
    assert hard.highest.item() == pytest.approx(1.24, abs=1e-15)  # that of a cosine of 1


@pytest.mark.parametrize(
    "changes", [{"margin": 1.2}, {"margin": 1.6, "target": "angle"}, {"hardness": 0.9}]
)
def test_mv_softmax_refuses_numbers_outside_its_definition(changes):
    with pytest.raises(ValueError, match=r"MVSoftmax .*; use"):
        MVSoftmax(**changes)


def test_unifaces_bias_starts_at_the_logarithm_of_ten_times_the_classes():
    assert UniFace().initial_state(num_classes=85_742) == {"bias": math.log(857_420)}
    assert UniFace(initial_bias=3.0).initial_state(num_classes=85_742) == {"bias": 3.0}


@pytest.mark.parametrize("changes", [{"margin": -0.1}, {"negative_weight": 0.0}])
def test_uniface_refuses_numbers_outside_its_definition(changes):
    with pytest.raises(ValueError, match=r"UniFace .*; use"):
        UniFace(**changes)


def test_the_plain_softmax_has_no_scale_of_its_own():
    PlainSoftmax().check(scale=1.0, num_classes=10)
    with pytest.raises(ValueError, match=r"use scale 1\.0"):
        PlainSoftmax().check(scale=64.0, num_classes=10)


def test_the_plain_softmax_passes_raw_products_of_any_size():
    raw = torch.tensor([-300.0, 5.0, 1e4], dtype=torch.float64)
    assert torch.equal(adjust(PlainSoftmax(), samples(raw)).value, raw)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (SphereFace, {"margin": 0.5}),
        (CombinedMargin, {"factor": 0.0}),
        (CombinedMargin, {"angle": 1.6}),
        (CombinedMargin, {"cosine": -0.1}),
    ],
)
def test_factors_and_angles_outside_the_definition_are_refused(kind, changes):
    with pytest.raises(ValueError, match=rf"{kind.__name__} .*; use"):
        kind(**changes)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("SphereFace2", "UniFace"),
        ("CircleLoss", "CurricularFace"),
        ("AdaCos", "NormFace"),
        ("UNPG", "MVSoftmax"),
    ],
)
def test_a_loss_that_is_left_out_says_why_and_what_to_use(name: str, instead: str):
    with pytest.raises(AttributeError, match=rf"no {name}: .*{instead}"):
        getattr(margins, name)


def test_an_unknown_name_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="has no attribute 'Magic'"):
        _ = margins.Magic
