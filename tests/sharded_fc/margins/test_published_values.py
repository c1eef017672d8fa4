"""Numbers computed from the papers' formulas, at one radian and at the margins' own corners."""

import math

import pytest

from sharded_fc.margins import (
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    Margin,
    MVSoftmax,
    NormFace,
    SphereFace,
    UniFace,
)
from tests.sharded_fc.margins.batches import EVERY, adjust, samples

ONE_RADIAN = math.cos(1.0)
SIX_DIGITS = 5e-7


def at_one_radian(margin: Margin, **state: float) -> float:
    return adjust(margin, samples([ONE_RADIAN]), **state).value.item()


@pytest.mark.parametrize(
    ("margin", "value"),
    [
        (ArcFace(0.5), 0.070737),
        (CosFace(0.35), 0.190302),
        (MVSoftmax(0.35), 0.190302),
        (SphereFace(4.0), -1.346356),
        (CombinedMargin(factor=0.9, angle=0.4, cosine=0.15), 0.117499),
        (CombinedMargin(factor=1.0, angle=0.3, cosine=0.2), 0.067499),
        (UniFace(0.4), 0.140302),
    ],
    ids=str,
)
def test_values_at_one_radian_are_the_method_sheets(margin: Margin, value: float):
    assert at_one_radian(margin) == pytest.approx(value, abs=SIX_DIGITS)


@pytest.mark.parametrize(("quality", "value"), [(-1.0, 0.169967), (0.0, 0.140302), (1.0, 0.025336)])
def test_adaface_at_poor_middling_and_good_images(quality: float, value: float):
    # A length 20 from a mean 20 deviations away is as good, or as poor, as can be.
    found = at_one_radian(AdaFace(0.4, rate=1e-12), mean=20.0 - 20.0 * quality, std=1.0)
    assert found == pytest.approx(value, abs=SIX_DIGITS)


@pytest.mark.parametrize(
    "margin",
    [
        ArcFace(0.0),
        CosFace(0.0),
        SphereFace(1.0),
        CombinedMargin(),
        MVSoftmax(0.0, hardness=1.0),
        MVSoftmax(0.0, hardness=1.0, target="angle"),
        ElasticArcFace(0.0, deviation=0.0),
        ElasticCosFace(0.0, deviation=0.0),
        MagFace(lowest_margin=0.0, highest_margin=0.0),
        AdaFace(0.0),
        UniFace(0.0),
    ],
    ids=str,
)
def test_without_a_margin_every_method_is_normface(margin: Margin):
    batch = samples([-0.99, -0.3, 0.0, 0.6, 0.99])
    expected = adjust(NormFace(), batch).value.tolist()
    # acos and back: the rounding of an angle, 4e-16, times sin(theta).
    assert adjust(margin, batch).value.tolist() == pytest.approx(expected, abs=2e-15)


def test_the_combined_margin_contains_the_others():
    batch = samples([-0.85, -0.3, 0.0, 0.6, 0.99])
    for one, other in (
        (CombinedMargin(angle=0.5), ArcFace(0.5)),
        (CombinedMargin(cosine=0.35), CosFace(0.35)),
        (CombinedMargin(factor=1.7), SphereFace(1.7)),
    ):
        found, expected = adjust(one, batch), adjust(other, batch)
        # Up to ArcFace's own switch, at cosine -0.878; acos against the addition theorem.
        assert found.value.tolist() == pytest.approx(expected.value.tolist(), abs=2e-15)
        assert found.slope.tolist() == pytest.approx(expected.slope.tolist(), abs=1e-14)


def test_every_margin_is_a_value_that_a_run_file_can_hold():
    assert len({*EVERY}) == len(EVERY)  # hashable and distinct
    assert all(eval(repr(margin), {**globals(), **_named()}) == margin for margin in EVERY)


def _named() -> dict[str, type[Margin]]:
    return {type(margin).__name__: type(margin) for margin in EVERY}
