import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline import keyed


def splitmix64(state):
    """Vigna's reference generator in Python's integers: the next output after `state`."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_a_hash_chains_splitmix64_over_its_keys():
    # First output of splitmix64 seeded with 0, as published with the generator.
    assert int(keyed.hash64(0)) == 0xE220A8397B1DCDAF
    for keys in ((1,), (7, 9), (3, 2**64 - 1, 5)):
        state = 0
        for key in keys:
            state = splitmix64(state ^ key)
        assert int(keyed.hash64(*keys)) == state


def test_hashes_are_pinned_because_packed_datasets_and_runs_depend_on_them():
    assert int(keyed.hash64("shard order", 1, 2)) == 2337646512469079236
    assert keyed.permutation(8, "window", 3).tolist() == [2, 6, 1, 7, 5, 3, 0, 4]


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**63 - 1))
def test_scalars_and_arrays_give_the_same_hash(key, other):
    row = keyed.hash64(key, np.array([other, other]))
    assert row[0] == row[1] == keyed.hash64(key % 2**64, other)


def test_keys_broadcast_and_their_order_matters():
    grid = keyed.hash64(np.arange(3)[:, None], np.arange(4))
    assert grid.shape == (3, 4)
    assert grid[2, 1] == keyed.hash64(2, 1)
    assert len(np.unique(grid)) == 12
    assert keyed.hash64(1, 2) != keyed.hash64(2, 1)
    assert keyed.hash64("a", 1) != keyed.hash64("b", 1)


def test_uniform_numbers_fill_the_unit_interval_evenly():
    drawn = keyed.uniform("test", np.arange(100_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    # 16 cells of 6250 +- 76.5 (one standard deviation of a binomial); 5 of those is 383.
    cells = np.histogram(drawn, bins=16, range=(0, 1))[0]
    assert abs(cells - 6250).max() < 383
    # Neighbouring keys are uncorrelated: the estimate's deviation is 1/sqrt(1e5) = 0.003.
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.016


@given(st.integers(0, 200), st.integers(0, 2**32))
def test_a_permutation_has_every_number_once_and_depends_on_its_keys(n, key):
    order = keyed.permutation(n, "test", key)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    assert np.array_equal(order, keyed.permutation(n, "test", key))


def test_permutations_of_neighbouring_keys_are_unrelated():
    first, second = (keyed.permutation(1000, "test", key) for key in (1, 2))
    # Matches of two random permutations are Poisson with mean 1: 8 or more have p < 1e-5.
    assert (first == second).sum() < 8
