"""Learning rates as tables worked out by hand."""

import pytest

from trainer.schedule import learning_rate


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "constant"}, [0.8, 0.8, 0.8, 0.8, 0.8]),
        ({"name": "constant", "warmup_steps": 3}, [0.2, 0.4, 0.6, 0.8, 0.8]),
        ({"name": "polynomial", "power": 1.0}, [0.8, 0.6, 0.4, 0.2, 0.0]),
        ({"name": "polynomial"}, [0.8, 0.45, 0.2, 0.05, 0.0]),
        ({"name": "polynomial", "power": 1.0, "final_ratio": 0.5}, [0.8, 0.7, 0.6, 0.5, 0.4]),
        (
            {"name": "polynomial", "power": 1.0, "warmup_steps": 1},
            [0.4, 0.8, 1.6 / 3, 0.8 / 3, 0.0],
        ),
        ({"name": "cosine"}, [0.8, 0.4 + 0.2 * 2**0.5, 0.4, 0.4 - 0.2 * 2**0.5, 0.0]),
        (
            {"name": "cosine", "warmup_steps": 2, "final_ratio": 0.25},
            [0.8 / 3, 1.6 / 3, 0.8, 0.5, 0.2],
        ),
        ({"name": "cosine", "warmup_steps": 4}, [0.16, 0.32, 0.48, 0.64, 0.8]),
    ],
)
def test_five_steps_with_a_peak_of_eight_tenths(options, expected):
    got = [learning_rate(step, peak=0.8, steps=5, **options) for step in range(5)]
    assert got == pytest.approx(expected, rel=1e-14, abs=0)  # float64, a few roundings


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
@pytest.mark.parametrize("final_ratio", [0.0, 0.1, 1 / 3])
@pytest.mark.parametrize("steps", [2, 7, 1000])
def test_the_last_step_has_exactly_the_final_rate(name, final_ratio, steps):
    last = learning_rate(steps - 1, peak=0.3, steps=steps, name=name, final_ratio=final_ratio)
    assert last == 0.3 * final_ratio


@pytest.mark.parametrize("name", ["polynomial", "cosine"])
def test_it_rises_to_the_peak_once_and_then_only_falls(name):
    rates = [learning_rate(s, peak=0.1, steps=50, warmup_steps=10, name=name) for s in range(50)]
    assert rates[:11] == sorted(set(rates[:11]))
    assert rates[10:] == sorted(set(rates[10:]), reverse=True)
    assert rates[10] == 0.1
    assert rates[0] > 0


def test_a_run_of_one_step_uses_the_peak():
    assert learning_rate(0, peak=0.1, steps=1) == 0.1


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match="outside a run of 5 steps"):
        learning_rate(step, peak=0.1, steps=5)
