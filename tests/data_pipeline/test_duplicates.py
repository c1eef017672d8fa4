from itertools import combinations

import numpy as np
import pytest

from data_pipeline import duplicates
from data_pipeline.duplicates import MAX_COARSE, MAX_DISTANCE, RECORD, find_duplicates


@pytest.fixture(params=[50, 1 << 18], ids=["in files", "in memory"])
def at_once(request, monkeypatch):
    monkeypatch.setattr(duplicates, "RECORDS", request.param)
    monkeypatch.setattr(duplicates, "FILES", 5)


def records_of(digests, looks, labels):
    records = np.zeros(len(labels), RECORD)
    records["sample"] = np.arange(len(labels))
    records["label"] = labels
    records["digest"][:, 0] = np.array(digests, np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    records["digest"][:, 1] = digests
    records["look"] = looks
    return records


def found(records, folder, *, looks=True):
    result = find_duplicates(np.array_split(records, 7), folder, count=len(records), looks=looks)
    pairs = [tuple(pair) for block in result.pairs(10) for pair in block.tolist()]
    assert sum(result.counts.values()) == len(pairs) == len(set(pairs))
    return result, pairs


def random_records(seed, *, samples=300, heaps=60):
    """Samples in heaps of equal bytes; every second heap looks like the one before, or nearly."""
    generator = np.random.default_rng(seed)
    looks = generator.integers(0, 2**64, (heaps, 4), np.uint64)
    for heap in range(1, heaps, 2):
        looks[heap] = looks[heap - 1]
        for word, most in enumerate((5, 14, 5, 5)):
            for bit in generator.choice(64, heap // 2 % most, replace=False).tolist():
                looks[heap, word] ^= np.uint64(1 << bit)
    heap = generator.integers(0, heaps, samples)
    return records_of(heap, looks[heap], generator.integers(0, 8, samples))


def groups_of(pairs):
    """Sets of samples that pairs connect, directly or not."""
    group = {}
    for first, second, *_ in pairs:
        merged = group.get(first, {first}) | group.get(second, {second})
        group.update(dict.fromkeys(merged, merged))
    return {frozenset(members) for members in group.values()}


@pytest.mark.parametrize("seed", range(5))
def test_all_samples_of_equal_bytes_are_connected_and_no_others(at_once, tmp_path, seed):
    records = random_records(seed)
    _, pairs = found(records, tmp_path / "work", looks=False)
    digest = records["digest"][:, 1]
    expected = {frozenset(np.flatnonzero(digest == d).tolist()) for d in set(digest.tolist())}
    assert groups_of(pairs) == {heap for heap in expected if len(heap) > 1}
    assert len(pairs) == sum(len(heap) - 1 for heap in expected)  # stars, not all pairs
    for first, second, look, distance, same_label in pairs:
        assert (look, distance) == (False, 0)
        assert same_label == (records["label"][first] == records["label"][second])


@pytest.mark.parametrize("seed", range(5))
def test_the_repeated_are_all_but_the_first_of_an_identity(at_once, tmp_path, seed):
    records = random_records(seed)
    result, _ = found(records, tmp_path / "work", looks=False)
    seen, repeated = set(), []
    for sample, label, digest in zip(
        *(records[field].tolist() for field in ("sample", "label")),
        records["digest"][:, 1].tolist(),
        strict=True,
    ):
        if (label, digest) in seen:
            repeated.append(sample)
        seen.add((label, digest))
    assert result.repeated.tolist() == repeated
    assert result.counts["duplicates_within_identities"] == len(repeated)


@pytest.mark.parametrize("seed", range(5))
def test_looks_are_compared_as_all_pairs_of_unlike_bytes_would_be(at_once, tmp_path, seed):
    records = random_records(seed)
    _, pairs = found(records, tmp_path / "work")
    digest = records["digest"][:, 1].tolist()
    look_of = dict(zip(digest, records["look"].tolist(), strict=True))
    reported = {
        frozenset((digest[first], digest[second])): distance
        for first, second, look, distance, _ in pairs
        if look
    }
    expected = {}
    for (one, its_look), (other, other_look) in combinations(look_of.items(), 2):
        bits = [(a ^ b).bit_count() for a, b in zip(its_look, other_look, strict=True)]
        if bits[0] <= MAX_COARSE and sum(bits) <= MAX_DISTANCE:
            expected[frozenset((one, other))] = sum(bits)
    # No heap looks like more than one other, so stars and all pairs are the same here.
    assert reported == expected
    assert min(reported.values()) == 0
    assert max(reported.values()) > MAX_DISTANCE - 5


def test_the_result_does_not_depend_on_how_much_is_in_memory(monkeypatch, tmp_path):
    records = random_records(9, samples=2000, heaps=900)
    results = []
    for number, at_once in enumerate((64, 1 << 18)):
        monkeypatch.setattr(duplicates, "RECORDS", at_once)
        results.append(sorted(found(records, tmp_path / str(number))[1]))
    assert results[0] == results[1]


def test_a_huge_heap_that_shares_two_pieces_ends_soon(tmp_path):
    looks = np.random.default_rng(0).integers(0, 2**64, (3000, 4), np.uint64)
    looks[:, 0] &= ~np.uint64(0xFFFFFFFF)
    _, pairs = found(records_of(range(3000), looks, [0] * 3000), tmp_path / "work")
    assert len(pairs) < 100
