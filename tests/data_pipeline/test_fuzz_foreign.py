"""A few thousand cases of `fuzz_foreign`; it can run many more."""

from tests.data_pipeline.fuzz_foreign import fuzz_bin, fuzz_recordio

CASES = 2000  # some seconds


def test_mutated_recordio_sets_are_read_or_refused():
    outcomes = fuzz_recordio(range(CASES // 4), seed=0)
    assert min(outcomes[kind] for kind in ("set refused", "image read", "record read")) > 50


def test_mutated_bin_files_are_read_or_refused():
    outcomes = fuzz_bin(range(CASES), seed=0)
    assert outcomes["file read"] + outcomes["file refused"] == CASES
    assert min(outcomes.values()) > 20
