"""The storage benchmark measures what it says, at sizes of no interest."""

import pytest

from tests.benchmarks.bench_head_storage import Storage, drift, toy_accuracy


def drifted(*words, **options):
    return drift(Storage(*words, **options), rows=8, steps=400)


def test_rows_drift_as_their_dtype_and_rounding_allow():
    chance = drifted("bfloat16", "float32")
    assert drifted("float32", "float32") < 1e-5  # 400 roundings of 2^-25, that do not all add up
    # Random rounding of 2^-8, 400 times: 20 x 2^-8 / sqrt(6) = 0.03, about.
    assert 0.01 < chance < 0.06
    assert drifted("float16", "float32") < chance / 3  # three more bits: an eighth, less elsewhere
    # To the nearest rows hardly turn at all, where those in float64 turn by 0.2.
    assert drifted("bfloat16", "float32", nearest=True) > 2 * chance


@pytest.mark.parametrize("nearest", [False, True])
def test_the_toy_is_learnt_better_than_by_chance(nearest):
    accuracy = toy_accuracy(Storage("bfloat16", "bfloat16", nearest=nearest), seed=0, steps=60)
    assert accuracy > 0.05  # chance: 0.001
