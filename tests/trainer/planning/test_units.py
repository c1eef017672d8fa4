"""Numbers as people write and read them."""

import pytest

from trainer.errors import RunError
from trainer.planning.units import count, duration, share, size


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("250_000", 250_000),
        ("250,000", 250_000),
        ("250k", 250_000),
        ("2.5m", 2_500_000),
        ("100M", 100_000_000),
        ("1b", 10**9),
    ],
)
def test_counts_are_read_with_their_suffixes(text: str, number: int):
    assert count(text, what="--identities") == number


@pytest.mark.parametrize("text", ["", "ten", "-3", "0", "1e6", "3x", "0.0001k", "1.2.3"])
def test_what_is_no_count_is_refused_by_name(text: str):
    with pytest.raises(RunError, match="--images"):
        count(text, what="--images")


def test_sizes_durations_and_shares_have_units():
    assert [size(x) for x in (0, 999, 1e3, 6.4e9, 1.234e12)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "6.40 GB",
        "1.23 TB",
    ]
    assert [duration(x) for x in (0, 2e-6, 0.0123, 1.5, 90, 7200, 86400, 3 * 86400)] == [
        "0 s",
        "2.00 us",
        "12.3 ms",
        "1.50 s",
        "1.50 min",
        "2.00 h",
        "24.0 h",
        "3.00 days",
    ]
    assert share(0.4) == "40.0 %"
    assert share(1.0) == "100 %"
