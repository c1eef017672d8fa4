"""Finding images that are in a dataset twice, exactly or to the eye, with bounded memory.

Two samples are duplicates if their bytes are the same ("bytes"), and look alike ("look") if the
hashes of their looks differ in at most `MAX_COARSE` bits of the first word and `MAX_DISTANCE` of
all. A heap of equal images is not reported as all its pairs but as a star: each points to the first
of its own identity there, or if that is itself, to one first of the whole heap. Only one of a heap
of equal bytes is compared by looks, and only one of a heap of equal looks with others.

First words within two bits agree in at least two of four pieces of 16 bits, so only samples that
share two pieces are compared. Records are dealt out to files by what they must share, and one file
after the other is read.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from data_pipeline.fingerprint import WORDS
from data_pipeline.keyed import hash64

# Of 300 aligned faces, saved again at quality 50 to 90 or scaled by 0.6 to 1.3 and saved, 90 to
# 100 % stay within these; of 4.5 million pairs of other faces the closest differ in 37 bits.
MAX_COARSE, MAX_DISTANCE = 2, 20
PIECES, PIECE_BITS = 4, 16  # of aligned faces, a few pairs in a million share two pieces
MASKS = tuple(
    sum(((1 << PIECE_BITS) - 1) << PIECE_BITS * piece for piece in pieces)
    for pieces in combinations(range(PIECES), PIECES - MAX_COARSE)
)
NEIGHBOURS = 1000  # in a heap that shares its pieces; more are not compared, or time were quadratic
RECORDS = 1 << 18  # in memory at a time: 17 MB, and a few times that in work
FILES = 512

RECORD = np.dtype(
    [("sample", "<i8"), ("label", "<i8"), ("digest", "<u8", (2,)), ("look", "<u8", (WORDS,))]
)
PAIR = np.dtype(
    [("first", "<i8"), ("second", "<i8"), ("look", "?"), ("distance", "u1"), ("same_label", "?")]
)
_ONES = np.array([byte.bit_count() for byte in range(256)], np.uint8)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Pairs of samples in a file, and their counts; `find_duplicates` makes one."""

    path: Path
    """`PAIR` records, in no order of meaning but always the same."""
    counts: dict[str, int]
    repeated: Int64[np.ndarray, " repeated"]
    """The samples, ascending, whose bytes an earlier sample of the same identity has."""

    def pairs(self, at_once: int) -> Iterator[np.ndarray]:
        """The pairs, so many at a time."""
        with self.path.open("rb") as stream:
            while len(pairs := np.fromfile(stream, PAIR, at_once)):
                yield pairs


def find_duplicates(
    blocks: Iterable[np.ndarray], folder: Path, *, count: int, looks: bool
) -> Duplicates:
    """Compare blocks of `RECORD`s, `count` in all, by their bytes and maybe by their looks.

    `folder` is made for files that may be removed when the result has been read.
    """
    folder.mkdir(parents=True)
    counts = {"duplicates_within_identities": 0, "duplicates_across_identities": 0}
    if looks:
        counts |= {"look_alikes_within_identities": 0, "look_alikes_across_identities": 0}
    repeated = [np.empty(0, np.int64)]
    path = folder / "pairs"
    with path.open("wb") as found:

        def note(name: str, pairs: np.ndarray) -> None:
            within = int(pairs["same_label"].sum())
            counts[f"{name}_within_identities"] += within
            counts[f"{name}_across_identities"] += len(pairs) - within
            found.write(pairs.tobytes())

        kinds = _Heads(folder / "kinds")
        for group in grouped(blocks, _digest_key, folder / "bytes", count=count):
            pairs, heads = _stars(group, "digest")
            note("duplicates", pairs)
            repeated.append(pairs["second"][pairs["same_label"]])
            if looks:
                kinds.add(heads)
        if looks:
            faces = _Heads(folder / "faces")
            for group in kinds.grouped(_look_key, folder / "looks"):
                pairs, heads = _stars(group, "look")
                note("look_alikes", pairs)
                faces.add(heads)
            for number, mask in enumerate(MASKS):
                key = partial(_masked_key, mask=mask)
                for group in faces.grouped(key, folder / f"mask-{number}"):
                    for pairs in _near(group, number):
                        note("look_alikes", pairs)
    return Duplicates(path=path, counts=counts, repeated=np.sort(np.concatenate(repeated)))


def grouped(
    blocks: Iterable[np.ndarray],
    key: Callable[[np.ndarray], np.ndarray],
    folder: Path,
    *,
    count: int,
) -> Iterator[np.ndarray]:
    """All `RECORD`s again in groups that have no key in common; keys are spread over 64 bits."""
    files = min(FILES, -(-count // RECORDS))
    if files <= 1:
        yield np.concatenate([np.empty(0, RECORD), *blocks])
        return
    folder.mkdir()
    paths = [folder / f"{number:03d}" for number in range(files)]
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("wb")) for path in paths]
        for block in blocks:
            file = (key(block) >> np.uint64(32)) * np.uint64(files) >> np.uint64(32)
            order = np.argsort(file, kind="stable")
            ends = np.searchsorted(file[order], np.arange(files + 1))
            for number in range(files):
                streams[number].write(block[order[ends[number] : ends[number + 1]]].tobytes())
    for path in paths:
        yield np.fromfile(path, RECORD)
        path.unlink()


class _Heads:
    """Records that go on to the next comparison, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0

    def add(self, records: np.ndarray) -> None:
        with self._path.open("ab") as stream:
            stream.write(records.tobytes())
        self._count += len(records)

    def grouped(
        self, key: Callable[[np.ndarray], np.ndarray], folder: Path
    ) -> Iterator[np.ndarray]:
        return grouped(self._blocks(), key, folder, count=self._count)

    def _blocks(self) -> Iterator[np.ndarray]:
        with self._path.open("rb") as stream:
            while len(block := np.fromfile(stream, RECORD, RECORDS // 4)):
                yield block


def _stars(records: np.ndarray, field: str) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of records with an equal field, and one record for each value of it."""
    values = records[field].reshape(len(records), -1)
    order = np.lexsort((records["sample"], records["label"], *values.T))
    records, values = records[order], values[order]
    place = np.arange(len(records))
    equal = np.zeros(len(records), np.bool_)
    equal[1:] = (values[1:] == values[:-1]).all(1)
    same_label = equal.copy()
    same_label[1:] &= records["label"][1:] == records["label"][:-1]
    first = np.maximum.accumulate(np.where(equal, 0, place))
    first_of_label = np.maximum.accumulate(np.where(same_label, 0, place))
    hub = np.where(same_label, first_of_label, first)
    distance = np.zeros(len(records), np.uint8)
    pairs = _pairs(records[hub[equal]], records[equal], distance[equal], look=field == "look")
    return pairs, records[~equal]


def _near(records: np.ndarray, number: int) -> Iterator[np.ndarray]:
    """Pairs of like records that agree under mask `number` but under none before it."""
    words = records["look"][:, 0]
    records = records[np.lexsort((records["sample"], words, _masked(words, MASKS[number])))]
    look, words = records["look"], records["look"][:, 0]
    shared = _masked(words, MASKS[number])
    place = np.arange(len(records))
    for step in range(1, NEIGHBOURS + 1):
        place = place[place + step < len(records)]
        place = place[shared[place] == shared[place + step]]
        if not len(place):
            return
        coarse = _distances(look[place, :1], look[place + step, :1])
        distance = _distances(look[place], look[place + step])
        found = (coarse <= MAX_COARSE) & (distance <= MAX_DISTANCE)
        differing = words[place] ^ words[place + step]
        for earlier in MASKS[:number]:
            found &= _masked(differing, earlier) != 0
        one, other = records[place[found]], records[place[found] + step]
        turned = one["sample"] > other["sample"]
        yield _pairs(
            np.where(turned, other, one), np.where(turned, one, other), distance[found], look=True
        )


def _pairs(
    first: np.ndarray, second: np.ndarray, distance: np.ndarray, *, look: bool
) -> np.ndarray:
    pairs = np.empty(len(first), PAIR)
    pairs["first"], pairs["second"] = first["sample"], second["sample"]
    pairs["look"], pairs["distance"] = look, distance
    pairs["same_label"] = first["label"] == second["label"]
    return pairs


def _digest_key(records: np.ndarray) -> np.ndarray:
    return records["digest"][:, 0]


def _look_key(records: np.ndarray) -> np.ndarray:
    return hash64(*np.ascontiguousarray(records["look"].T))


def _masked_key(records: np.ndarray, *, mask: int) -> np.ndarray:
    return hash64(_masked(records["look"][:, 0], mask))


def _masked(word: np.ndarray, mask: int) -> np.ndarray:
    return word & np.uint64(mask)


def _distances(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    return _ONES[(looks ^ others).view(np.uint8)].sum(1, dtype=np.uint8)  # at most 255
