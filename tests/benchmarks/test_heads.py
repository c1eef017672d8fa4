"""The parts of the head's benchmarks, at sizes of no interest."""

import pytest

from tests.benchmarks.errors import Errors
from tests.benchmarks.heads import DENSE, SHARDED, SHARDED_LOW, TWO_BYTE_ROWS, Size
from tests.benchmarks.memory import peak_bytes
from tests.benchmarks.record import met

# Wide, so that no loss reaches the -log(1e-30) = 69.08 where public code cuts it off.
SIZE = Size(classes=300, dim=256, batch=16)


@pytest.mark.parametrize("candidate", [DENSE, SHARDED], ids=lambda c: c.name)
def test_a_float32_head_is_close_to_float64(candidate):
    errors = Errors(SIZE).of(candidate)
    assert set(errors) == {"loss error", "gradient error", "centre error"}
    # Logits of up to 64 carry an error of 64 float32 units (6e-8) into every probability.
    assert all(0 < float(error) < 64 * 6e-8 * 4 for error in errors.values())


@pytest.mark.parametrize("candidate", [SHARDED_LOW, *TWO_BYTE_ROWS], ids=lambda c: c.name)
def test_a_low_precision_head_shows_its_error(candidate):
    errors = Errors(SIZE).of(candidate)
    assert 1e-4 < float(errors["gradient error"]) < 0.1  # bfloat16 operands: 2^-9 each


def test_memory_of_a_head_counts_its_rows_and_not_the_libraries():
    size = Size(classes=20_000, dim=256, batch=16)
    peak = peak_bytes(SHARDED, size, threads=1)
    rows = size.row_bytes(SHARDED)
    assert rows <= peak < 2 * rows  # importing torch alone takes 150 MB, the rows are 41 MB


@pytest.mark.parametrize(("value", "verdict"), [(0.3, "met"), (0.5, "missed")])
def test_a_limit_is_said_to_be_met_or_missed(value, verdict):
    assert met("time", value, 0.4).endswith(f"wanted at most 0.4: {verdict}")
