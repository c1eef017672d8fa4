"""The counter-based hash: the published function, the same on numbers and tensors, well spread."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.counter import GOLDEN, extend, key_of, keys, mix, normals, signed

ANY_INT64 = st.integers(-(2**63), 2**63 - 1)


def as_tensor(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_a_chain_of_keys_is_the_published_sequence():
    # splitmix64 from seed 1234567: the first outputs of the authors' C code, as listed with it.
    state, published = 1234567, (6457827717110365317, 3203168211198807973, 9817491932198370423)
    assert tuple(key_of(state + n * GOLDEN) for n in range(3)) == published


@given(first=ANY_INT64, second=ANY_INT64, third=ANY_INT64)
def test_tensors_are_hashed_on_as_numbers_are(first, second, third):
    on_numbers = signed(key_of(first, second, third))
    assert extend(key_of(first, second), as_tensor(third)).item() == on_numbers
    on_tensors = extend(extend(key_of(first), torch.tensor(second)), as_tensor(third))
    assert on_tensors.item() == on_numbers


def test_mixing_is_in_place_and_one_to_one():
    key = torch.arange(-5000, 5000)
    mixed = mix(key)
    assert mixed is key
    assert len(mixed.unique()) == 10000


def test_every_sample_of_every_step_of_every_seed_has_its_own_key():
    position = torch.arange(100)
    made = [keys(seed, torch.tensor(step), position) for seed in (0, 1) for step in (0, 1, 2)]
    assert len(torch.cat(made).unique()) == 600


def test_normals_have_the_moments_of_twelve_uniforms():
    drawn = normals(keys(3, torch.tensor(7), torch.arange(100_000)))
    n = drawn.numel()
    assert drawn.dtype == torch.float64
    # Five standard errors of each estimate.
    assert abs(drawn.mean()) < 5 / n**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((drawn**4).mean() - 2.9) < 5 * (96 / n) ** 0.5  # Irwin-Hall of twelve: 3 - 0.1
    assert abs((drawn[1:] * drawn[:-1]).mean()) < 5 / n**0.5
    assert drawn.abs().max() <= 6


def test_a_normal_is_the_documented_sum_in_plain_integers():
    key = key_of(5, 9)
    total = 0
    for counter in (1, 2, 3):
        bits = key_of(key + (counter - 1) * GOLDEN)
        total += sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
    # Both are exact: a sum below 2^20 over a power of two.
    assert normals(as_tensor(signed(key))).item() == (total - 6 * 65535) / 65536
