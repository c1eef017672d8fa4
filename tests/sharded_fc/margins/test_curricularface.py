"""CurricularFace: t moves before it is used, and what it makes of negatives, its pitfalls kept."""

import pytest
import torch

from sharded_fc.margins import CurricularFace, HardNegatives
from tests.sharded_fc.margins.batches import adjust, samples


def hard_of(cosine: list[float], *, t: float, **changes) -> HardNegatives:
    hard = adjust(CurricularFace(**changes), samples(cosine), t=t).hard
    assert hard is not None
    return hard


def modulated(cosine: float, *, t: float) -> float:
    """N(t, c), with t fixed by a batch whose mean target cosine is t."""
    hard = hard_of([t], t=t)
    return float(hard.constant + hard.linear * cosine + hard.square * cosine**2)


@pytest.mark.parametrize(("t", "value"), [(0.0, 0.25), (0.3, 0.4), (0.8, 0.65)])
def test_a_hard_negative_at_half_is_the_method_sheets(t: float, value: float):
    assert modulated(0.5, t=t) == pytest.approx(value, abs=1e-15)


def test_far_negatives_turn_positive_early_on_as_in_the_paper():
    assert modulated(-0.5, t=0.1) == pytest.approx(0.2, abs=1e-15)


def test_t_moves_by_a_hundredth_of_the_mean_target_before_it_is_used():
    found = adjust(CurricularFace(), samples([0.2, 0.4, 0.9]), t=0.3)
    assert found.state["t"].item() == pytest.approx(0.99 * 0.3 + 0.01 * 0.5, abs=1e-15)
    assert found.hard is not None
    assert found.hard.linear is found.state["t"]


def test_only_samples_with_a_class_move_t():
    found = adjust(CurricularFace(rate=1.0), samples([0.2, 0.9], labelled=[True, False]), t=0.3)
    assert found.state["t"].item() == pytest.approx(0.2, abs=1e-15)


def test_negatives_are_hard_beyond_the_samples_own_changed_target():
    batch = samples([0.5, -0.2], labelled=[True, False])
    found = adjust(CurricularFace(), batch)
    assert found.hard is not None
    assert found.hard.threshold[0] == found.value[0]
    assert found.hard.threshold[1] == torch.inf


@pytest.mark.parametrize("t", [-0.4, 0.0, 0.7])
def test_the_bound_holds_for_all_cosines_even_of_a_negative_t(t: float):
    cosine = torch.linspace(-1.0, 1.0, 401, dtype=torch.float64)
    highest = hard_of([t], t=t).highest
    assert ((t + cosine) * cosine).max() <= highest + 1e-15
    assert highest == 1.0 + abs(t)


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_rate_that_never_or_over_moves_is_refused(rate: float):
    with pytest.raises(ValueError, match=r"CurricularFace rate .*; use \(0, 1\]"):
        CurricularFace(rate=rate)
