"""A keyed permutation: one to one, invertible, and as even as drawing without replacement."""

import pytest
import torch

from sharded_fc.counter import key_of
from sharded_fc.native_build import SWITCH
from sharded_fc.sampling import Permutation
from tests.sharded_fc.sampling.chi_square import deviations, pair_counts

CPU = torch.device("cpu")
DRAWS = 2500
SIZES = [1, 2, 3, 4, 5, 12, 100, 101, 9999, 10_000, 10_001, 65_536]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("native", ["1", "0"])
def test_every_number_comes_once_and_the_inverse_finds_its_place(size, native, monkeypatch):
    monkeypatch.setenv(SWITCH, native)
    permutation = Permutation(size, key_of(7, size), device=CPU)
    place = torch.arange(size)
    number = permutation.forward(place.clone())
    assert torch.equal(number.sort().values, place)
    assert torch.equal(permutation.inverse(number), place)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("native", ["1", "0"])
def test_the_first_numbers_within_a_range_come_in_order_with_and_without_a_compiler(
    size, native, monkeypatch
):
    monkeypatch.setenv(SWITCH, native)
    permutation = Permutation(size, key_of(9, size), device=CPU)
    for count in {0, 1, size // 3, size}:
        number = permutation.forward(torch.arange(count)).tolist()
        for first, last in ((0, size), (size // 4, size // 2), (size - 1, size)):
            for known in ([], [0], list(range(0, size, 3))):
                without = torch.tensor(known, dtype=torch.int64)
                found = permutation.first_within(count, first, last, without=without)
                expected = {x for x in number if first <= x < last} - set(known)
                assert found.tolist() == sorted(expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("native", ["1", "0"])
def test_the_first_others_end_where_as_many_have_come(size, native, monkeypatch):
    monkeypatch.setenv(SWITCH, native)
    permutation = Permutation(size, key_of(11, size), device=CPU)
    number = permutation.forward(torch.arange(size)).tolist()
    for known in (set(), {0}, set(range(0, size, 3)), set(range(size))):
        others = [place for place, x in enumerate(number) if x not in known]
        for wanted in {0, min(1, len(others)), len(others) // 2, len(others)}:
            end = permutation.end_of_others(wanted, torch.tensor(sorted(known), dtype=torch.int64))
            assert end == (others[wanted - 1] + 1 if wanted else 0)
            first, last = size // 4, size
            found = permutation.first_within(
                wanted, first, last, without=torch.tensor(sorted(known)).long(), others=True
            )
            expected = sorted(number[place] for place in others[:wanted])
            assert found.tolist() == [x for x in expected if first <= x < last]


@pytest.mark.parametrize("native", ["1", "0"])
def test_places_of_a_hundred_million_numbers_are_found_without_a_table_of_them(native, monkeypatch):
    monkeypatch.setenv(SWITCH, native)
    permutation = Permutation(10**8, 5, device=CPU)
    place = torch.randint(10**8, (1000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(permutation.inverse(permutation.forward(place.clone())), place)


def test_keys_on_the_host_and_on_the_device_give_the_same_numbers():
    place = torch.arange(50)
    on_host = Permutation(50, 12345, device=CPU).forward(place.clone())
    on_device = Permutation(50, torch.tensor(12345), device=CPU).forward(place.clone())
    assert torch.equal(on_host, on_device)


@pytest.mark.parametrize(("size", "count"), [(12, 4), (30, 7)])
def test_each_number_and_each_pair_is_among_the_first_as_often_as_any_other(size, count):
    """Over 2,500 keys, chi-square within four deviations of its mean."""
    draws = DRAWS
    taken = torch.zeros(draws, size)
    for key in range(draws):
        number = Permutation(size, key_of(3, key), device=CPU).forward(torch.arange(count))
        taken[key, number] = 1
    share = count / size
    single = taken.sum(0)
    # Counts of a draw without replacement vary less than independent ones, by (1 - share).
    expected = torch.full_like(single, draws * share)
    scaled = expected + (single - expected) / ((1 - share) * size / (size - 1)) ** 0.5
    assert deviations(scaled, expected, freedom=size - 1) < 4
    pairs = pair_counts(taken)
    chance = share * (count - 1) / (size - 1)
    expected = torch.full_like(pairs, draws * chance)
    # Pairs that share no number are nearly independent, the others slightly correlated: the
    # measured variance of true draws is within 15 % of chance (1 - chance).
    scaled = expected + (pairs - expected) / (1.15 * (1 - chance)) ** 0.5
    assert deviations(scaled, expected, freedom=len(pairs) - 1) < 4


def test_the_order_of_two_places_is_as_even_as_their_numbers():
    """(number at 0, number at 1) over 12 numbers: 132 ordered pairs, each as likely as any."""
    draws, size = DRAWS, 12
    counts = torch.zeros(size, size)
    for key in range(draws):
        permutation = Permutation(size, key_of(11, key), device=CPU)
        first, second = permutation.forward(torch.arange(2)).tolist()
        counts[first, second] += 1
    assert counts.diagonal().sum() == 0
    of_pairs = counts[~torch.eye(size, dtype=torch.bool)]
    expected = torch.full_like(of_pairs, draws / len(of_pairs))
    assert deviations(of_pairs, expected, freedom=len(of_pairs) - 1) < 4
