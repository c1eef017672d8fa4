"""Initial rows: the same bits wherever and however a class is made; close to normal(0, 0.01)."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_fc.initial import INITIAL_STD, initial_rows, initial_rows_of

CPU = torch.device("cpu")


def splitmix64(key: int) -> int:
    """The published finaliser, in Python's integers."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB % 2**64
    return key ^ (key >> 31)


@given(
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**40),
    cut=st.integers(0, 9),
    dim=st.integers(1, 20),
)
def test_a_class_has_the_same_bits_whatever_is_made_beside_it(seed, start, cut, dim):
    whole = initial_rows(start, start + 9, embedding_dim=dim, seed=seed, device=CPU)
    pieces = [
        initial_rows(a, b, embedding_dim=dim, seed=seed, device=CPU)
        for a, b in ((start, start + cut), (start + cut, start + 9))
    ]
    assert torch.equal(torch.cat(pieces), whole)


def test_values_are_the_documented_hash_in_plain_integers():
    golden = 0x9E3779B97F4A7C15
    seed, dim, identity = 5, 3, 1234567
    row_key = splitmix64((identity * golden + splitmix64(seed + golden)) % 2**64)
    expected = []
    for column in range(dim):
        total = 0
        for draw in range(3):
            counter = draw * dim + column + 1
            bits = splitmix64((row_key + counter * golden) % 2**64)
            total += sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
        expected.append((total - 6 * 65535) * (0.01 / 65536))
    row = initial_rows(identity, identity + 1, embedding_dim=dim, seed=seed, device=CPU)
    # One float32 rounding of the product and one of its constant.
    torch.testing.assert_close(row[0].double(), torch.tensor(expected).double(), rtol=3e-7, atol=0)


def test_rows_look_normal_and_independent():
    rows = initial_rows(0, 2000, embedding_dim=64, seed=1, device=CPU).double() / INITIAL_STD
    n = rows.numel()
    # Five standard errors of each estimate.
    assert abs(rows.mean()) < 5 / n**0.5
    assert abs(rows.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((rows**4).mean() - 2.9) < 5 * (96 / n) ** 0.5  # Irwin-Hall of twelve: 3 - 0.1
    assert rows.abs().max() <= 6
    unit = torch.nn.functional.normalize(rows)
    cosine = (unit @ unit.t()).triu(1)
    assert cosine.abs().max() < 6 / 64**0.5
    assert abs(cosine.sum() / (2000 * 1999 / 2)) < 5 / (64 * 2000 * 1999 / 2) ** 0.5


def test_another_seed_gives_other_rows():
    one, two = (initial_rows(0, 4, embedding_dim=8, seed=s, device=CPU) for s in (0, 1))
    assert not (one == two).any()


def test_long_tables_are_made_in_blocks_without_a_seam():
    whole = initial_rows(0, 300, embedding_dim=512, seed=2, device=CPU)  # 128 rows a block
    number = torch.tensor([299, 3, 128, 127])
    assert torch.equal(whole[number], initial_rows_of(number, embedding_dim=512, seed=2))
    assert torch.equal(
        whole[120:140], initial_rows(120, 140, embedding_dim=512, seed=2, device=CPU)
    )
