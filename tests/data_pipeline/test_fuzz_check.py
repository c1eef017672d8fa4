"""A few hundred cases of `fuzz_check`; it can run many more."""

from tests.data_pipeline.fuzz_check import fuzz_images, fuzz_indexes, fuzz_tars


def test_mutated_tars_are_read_or_refused():
    outcomes = fuzz_tars(range(500), seed=0)
    assert min(outcomes[kind] for kind in ("tar refused", "nothing wrong", "samples indexed")) > 10


def test_mutated_datasets_are_read_or_refused_and_the_check_misses_none():
    outcomes = fuzz_indexes(range(100), seed=0)
    assert outcomes["dataset refused"] > 10
    assert outcomes["sample read"] > 100
    assert any(kind.startswith("sample bad") for kind in outcomes)


def test_mutated_images_are_decoded_or_refused():
    outcomes = fuzz_images(range(300), seed=0)
    assert min(outcomes[kind] for kind in ("decoded", "not decoded", "never decoded", "shown")) > 5
    assert outcomes["not decoded but found sound"] <= 3  # a hundredth: two decoders never agree
