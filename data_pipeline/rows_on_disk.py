"""Rows kept on disk: sorting and shuffling more of them than memory should hold.

A row is a tuple of strings and integers, one line of JSON in a file, so that any name survives.
Both classes hold about `ROWS` rows in memory at a time, however many there are, and a few dozen
bytes a file; their folders are scratch, to be made anew after a kill.
"""

import heapq
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from data_pipeline import keyed

Row = tuple[str | int, ...]

ROWS = 1 << 16  # in memory at a time: about 20 MB of names
FILES = 512  # open at a time; most systems allow a process 1,024


class SortedRows:
    """Rows in ascending order, as Python compares tuples; iterating again starts anew."""

    def __init__(self, rows: Iterable[Row], folder: Path) -> None:
        """Take all rows and sort them piece by piece into files of `folder`, which is made."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._runs: list[Path] = []
        self._count = self._written = 0
        stream = iter(rows)
        while piece := sorted(islice(stream, ROWS)):
            self._count += len(piece)
            self._write(piece)
            if len(self._runs) == FILES:
                self._merge()

    def __len__(self) -> int:
        """How many rows there are."""
        return self._count

    def __iter__(self) -> Iterator[Row]:
        """The rows, merged from the files."""
        with ExitStack() as stack:
            yield from heapq.merge(*(_rows_of(run, stack) for run in self._runs))

    def _merge(self) -> None:
        runs = self._runs
        merged = iter(self)
        first = next(merged)  # opens all runs
        self._runs = []
        self._write(chain([first], merged))
        for run in runs:
            run.unlink()

    def _write(self, rows: Iterable[Row]) -> None:
        path = self._folder / f"run-{self._written:06d}"
        self._written += 1
        with path.open("w", encoding="ascii") as stream:
            stream.writelines(map(_line, rows))
        self._runs.append(path)


class ShuffledRows:
    """Rows in the order of `keyed.permutation`, readable from any place.

    Row number i, counted from 0, has the hash of (*keys, i); the hashes' upper bits say in which
    file a row lies, and a file is put in order when it is read.
    """

    def __init__(self, rows: Iterable[Row], folder: Path, *keys: keyed.Key, count: int) -> None:
        """Deal `count` rows out to files of `folder`, which is made."""
        folder.mkdir(parents=True)
        self._keys = keys
        files = max(1, min(FILES, -(-count // ROWS)))
        self._paths = [folder / f"part-{number:03d}" for number in range(files)]
        sizes = np.zeros(files, np.int64)
        numbered = enumerate(rows)
        with ExitStack() as stack:
            streams = [
                stack.enter_context(path.open("w", encoding="ascii")) for path in self._paths
            ]
            while piece := list(islice(numbered, 1024)):
                place = self._file_of(np.array([number for number, _ in piece]))
                sizes += np.bincount(place, minlength=files)
                for file, (number, row) in zip(place.tolist(), piece, strict=True):
                    streams[file].write(_line((number, *row)))
        self._first = np.concatenate(([0], np.cumsum(sizes)))  # positions, and their end

    def __len__(self) -> int:
        """How many rows there are."""
        return int(self._first[-1])

    def rows(self, start: int = 0) -> Iterator[tuple[int, Row]]:
        """(number, row) from the shuffled position `start` on."""
        for file in range(len(self._paths)):
            if self._first[file + 1] > start:
                yield from self._read(file)[max(0, start - int(self._first[file])) :]

    def at(self, positions: Int64[np.ndarray, " some"]) -> Iterator[tuple[int, Row]]:
        """(number, row) at these shuffled positions, which ascend."""
        ends = np.searchsorted(positions, self._first)
        for file in range(len(self._paths)):
            wanted = positions[ends[file] : ends[file + 1]] - self._first[file]
            if len(wanted):
                rows = self._read(file)
                yield from (rows[place] for place in wanted.tolist())

    def _read(self, file: int) -> list[tuple[int, Row]]:
        with ExitStack() as stack:
            rows = list(_rows_of(self._paths[file], stack))
        order = np.argsort(self._hash(np.array([row[0] for row in rows])), kind="stable")
        return [(int(rows[i][0]), rows[i][1:]) for i in order.tolist()]

    def _file_of(self, number: np.ndarray) -> np.ndarray:
        upper = self._hash(number) >> np.uint64(32)
        return (upper * np.uint64(len(self._paths)) >> np.uint64(32)).astype(np.int64)

    def _hash(self, number: np.ndarray) -> np.ndarray:
        return keyed.hash64(*self._keys, number.astype(np.int64))


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _rows_of(path: Path, stack: ExitStack) -> Iterator[Row]:
    stream = stack.enter_context(path.open(encoding="ascii"))
    return (tuple(json.loads(line)) for line in stream)
