import tracemalloc

import pytest

from data_pipeline import keyed, rows_on_disk
from data_pipeline.errors import DataError
from data_pipeline.listing import list_source
from tests.data_pipeline.pictures import MemorySource

NAMES = [(f"person {p % 7}", f"{p}.jpg") for p in range(40)] + [("Zoë\n", "a b"), ("", "")]


def source_of(names):
    return MemorySource(dict.fromkeys(names, b""))


@pytest.fixture(params=[5, 1 << 16])
def listing(request, monkeypatch, tmp_path):
    """Listed with few or with many rows in memory."""
    monkeypatch.setattr(rows_on_disk, "ROWS", request.param)
    return list_source(source_of(NAMES), tmp_path / "listing", seed=3)


def test_images_and_labels_follow_permutations_of_the_sorted_names(listing):
    in_order = sorted(NAMES)
    identities = sorted({identity for identity, _ in NAMES})
    names = [identities[i] for i in keyed.permutation(len(identities), "labels", 3)]
    order = keyed.permutation(len(NAMES), "pack order", 3)
    expected = [(*in_order[i], names.index(in_order[i][0])) for i in order]
    assert [tuple(listed) for listed in listing.images()] == expected
    assert [tuple(listed) for listed in listing.images(11)] == expected[11:]
    assert list(listing.names()) == names
    assert (listing.num_images, listing.num_identities) == (42, 9)


def test_the_digest_tells_names_but_not_their_order(tmp_path):
    def digest(names):
        return list_source(source_of(names), tmp_path / "listing", seed=0).digest

    assert digest(NAMES) == digest(NAMES[::-1])
    assert digest(NAMES) != digest(NAMES[1:])
    assert digest([("a", "bc")]) != digest([("ab", "c")])


class _Twice(MemorySource):
    def __iter__(self):
        yield from self.images
        yield from self.images


def test_an_image_that_is_listed_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"lists the image '1.jpg' of 'ann' twice"):
        list_source(_Twice({("ann", "1.jpg"): b""}), tmp_path / "listing", seed=0)


class _Many(MemorySource):
    """Names as a walk over a folder gives them, none of them kept."""

    def __iter__(self):
        return ((f"identity {n // 10:08d}", f"image {n:08d}.jpg") for n in range(len(self.images)))


def test_memory_does_not_grow_with_the_names(monkeypatch, tmp_path):
    monkeypatch.setattr(rows_on_disk, "ROWS", 1_000)
    peaks = []
    for count in (2_000, 14_000):
        source = _Many({("", str(number)): b"" for number in range(count)})
        tracemalloc.start()
        listing = list_source(source, tmp_path / str(count), seed=0)
        assert sum(1 for _ in listing.images()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 12,000 names more would take 2.4 MB as tuples of text; 12 files more have buffers of 25 kB.
    assert peaks[1] - peaks[0] < 1e6
