"""Looks through one tar, in one pass: its structure, its samples, their labels and images.

Where an index says what the tar holds, each of its records is compared with the bytes that it
points at, also behind a place where the tar itself cannot be followed any further. Which members
make a sample is decided as in indexing (`sources.tars`).
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from zlib import crc32

import numpy as np
from jaxtyping import Int64, UInt64

from data_pipeline.checking.findings import Findings
from data_pipeline.checking.images import faults
from data_pipeline.checking.kinds import KINDS
from data_pipeline.errors import DataError
from data_pipeline.index_file import File
from data_pipeline.sources.tars import (
    IMAGES,
    LABELS,
    MAX_MEMBER_BYTES,
    HashingStream,
    LeftOut,
    TarSample,
    sample_of,
    split,
)
from data_pipeline.tar_stream import PIECE, Member, Readable, TarStream

KEY_BYTES = 8  # of a key's digest


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an index says of a tar."""

    records: np.ndarray
    """Of type `MEMBER`."""
    first_sample: int
    num_identities: int
    image_size: tuple[int, int] | None
    label_text: Callable[[int], str] | None
    """How the tar spells a label of the index; `None` where nothing says it."""


@dataclass(kw_only=True)
class Scanned:
    """What came of looking through a tar."""

    findings: Findings = field(default_factory=Findings)
    samples: int = 0
    """With an image and a label; those of the index where there is one."""
    file: File | None = None
    """The tar as it is; `None` if it could not be read to its end."""
    bad: Int64[np.ndarray, " bad"] = field(default_factory=lambda: np.empty(0, np.int64))
    """Places, in the records of the index, of samples that cannot be used; ascending."""
    keys: UInt64[np.ndarray, " keys"] = field(default_factory=lambda: np.empty(0, np.uint64))
    """A digest of every sample's key."""
    numeric_labels: int = 0
    """Samples whose label is a whole number."""
    named_labels: int = 0
    """Samples whose label is any other text."""

    @property
    def errors(self) -> int:
        """How many errors were found."""
        return self.findings.total("error")


def scan(stream: Readable, where: str) -> Scanned:
    """Look through a tar that no index describes; `where` names it in findings."""
    return _Scan(where, None).run(stream)


def scan_indexed(descriptor: int, where: str, expected: Expected) -> Scanned:
    """Look through a tar and compare it with its records; `descriptor` is the open file."""
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        scanning = _Scan(where, expected)
        scanned = scanning.run(stream)
        scanning.read_rest(descriptor)
        scanned.bad = np.flatnonzero(scanning.is_bad)
        return scanned


class _Scan:
    def __init__(self, where: str, expected: Expected | None) -> None:
        self._where = where
        self._expected = expected
        self._found = Scanned()
        self._keys: set[int] = set()
        self._cut = False
        count = 0 if expected is None else len(expected.records)
        self._row_of: dict[int, int] = {}
        if expected is not None:
            self._row_of = {at: row for row, at in enumerate(expected.records["offset"].tolist())}
            self._found.samples = count
        self._visited = np.zeros(count, bool)
        self.is_bad = np.zeros(count, bool)

    def run(self, stream: Readable) -> Scanned:
        hashing = HashingStream(Source(stream))
        tar = TarStream(hashing, max_member_bytes=MAX_MEMBER_BYTES)
        found = self._found
        try:
            for key, members in groupby(self._watched(tar), key=lambda m: split(m.name)[0]):
                self._look_at(key, members)
            while hashing.read(PIECE):
                pass
            found.file = File(bytes=hashing.bytes, sha256=hashing.digest.hexdigest())
        except SourceFails as error:
            found.findings.add("unreadable_file", self._where, detail=str(error))
        for kind, count in tar.passed_over.items():
            found.findings.add(kind, self._where, count=count)
        found.keys = np.fromiter(self._keys, np.uint64, len(self._keys))
        if not found.samples and not found.errors:
            found.findings.add("no_samples", self._where)
        return found

    def read_rest(self, descriptor: int) -> None:
        """Look at the records' bytes that the pass over the tar has not met."""
        expected = self._expected
        assert expected is not None, "there is something to read only where there are records"
        for row in np.flatnonzero(~self._visited).tolist():
            offset, size, crc, _ = expected.records[row].item()
            if size > MAX_MEMBER_BYTES:
                self._blame(row, "too_large")
                continue
            try:
                content = os.pread(descriptor, size, offset)
            except OSError as error:
                self._blame(row, "unreadable", detail=reason(error))
                continue
            if len(content) != size or crc32(content) != crc:
                self._blame(row, "misplaced", detail=f"byte {offset}", content=content)
            else:
                self._check_record(row, content)

    def _watched(self, members: Iterable[Member]) -> Iterator[Member]:
        """The members up to the end or a damage, each looked at by itself."""
        try:
            for member in members:
                suffix = split(member.name)[1]
                if suffix not in IMAGES + LABELS and suffix.rpartition(".")[2] in IMAGES + LABELS:
                    self._found.findings.add("dotted_name", f"{self._where}: {member.name}")
                row = self._row_of.get(member.offset)
                if row is not None:
                    self._visit(row, member)
                yield member
        except DataError as error:
            self._cut = True
            self._found.findings.add("damaged_tar", self._where, detail=str(error))

    def _visit(self, row: int, member: Member) -> None:
        """Compare a member with the record that points at it."""
        assert self._expected is not None, "a row is one of its records"
        self._visited[row] = True
        _, size, crc, _ = self._expected.records[row].item()
        if member.size != size:
            self._blame(row, "misplaced", detail=f"{member.size} bytes, not {size}")
        elif member.content is None:
            self._blame(row, "too_large", detail=f"{size} bytes")
        elif crc32(member.content) != crc:
            self._blame(row, "crc", detail=member.name, content=member.content)
        else:
            self._check_record(row, member.content)

    def _check_record(self, row: int, content: bytes) -> None:
        """What is wrong with a sample whose bytes are those of the index."""
        assert self._expected is not None, "a row is one of its records"
        label = int(self._expected.records["label"][row])
        if not 0 <= label < self._expected.num_identities:
            detail = f"label {label} of {self._expected.num_identities}"
            self._blame(row, "label_out_of_range", detail=detail, content=content)
        for kind, detail in faults(content, size=self._expected.image_size):
            self._blame(row, kind, detail=detail, content=content)

    def _look_at(self, key: str, members: Iterator[Member]) -> None:
        """Judge the members of one key, which follow each other."""
        rows: list[int] = []

        def noting_rows() -> Iterator[Member]:
            for member in members:
                rows.extend([self._row_of[member.offset]] if member.offset in self._row_of else [])
                yield member

        try:
            sample = sample_of(noting_rows(), Counter())
        except LeftOut as error:
            if self._cut:
                return  # the rest of its members may lie behind the damage
            if rows or self._expected is None:
                where, number = self._place(key, rows[0] if rows else None)
                self._found.findings.add(str(error), where, sample=number)
            else:
                where = f"{self._where}: {key}"
                self._found.findings.add("left_out", where, detail=KINDS[str(error)].meaning)
            return
        if sample is None:
            return
        self._note_key(key)
        if sample.label.isdigit():
            self._found.numeric_labels += 1
        else:
            self._found.named_labels += 1
        if self._expected is None:
            self._look_at_unindexed(key, sample)
        else:
            self._compare_label(key, sample, self._expected)

    def _look_at_unindexed(self, key: str, sample: TarSample) -> None:
        found, (where, _) = self._found, self._place(key, None)
        found.samples += 1
        content = sample.image.content
        if content is None:
            found.findings.add("too_large", where, detail=f"{sample.image.size} bytes")
            return
        for kind, detail in faults(content):
            found.findings.add(kind, where, detail=detail, content=content)

    def _compare_label(self, key: str, sample: TarSample, expected: Expected) -> None:
        row = self._row_of.get(sample.image.offset)
        where, number = self._place(key, row)
        if row is None:
            self._found.findings.add("unindexed", where)
            return
        label = int(expected.records["label"][row])
        if expected.label_text is None or not 0 <= label < expected.num_identities:
            return  # a label that does not exist is a finding already
        if sample.label != (told := expected.label_text(label)):
            detail = f"{sample.label} in the tar, {told} in the index"
            content = sample.image.content
            self._found.findings.add(
                "label_differs", where, detail=detail, sample=number, content=content
            )

    def _note_key(self, key: str) -> None:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=KEY_BYTES)
        number = int.from_bytes(digest.digest(), "little")
        if number in self._keys:
            self._found.findings.add("duplicate_key", f"{self._where}: {key}")
        self._keys.add(number)

    def _blame(self, row: int, kind: str, *, detail: str = "", content: bytes = b"") -> None:
        """Note a finding about a record, and count it as bad where that is an error."""
        where, number = self._place(None, row)
        self._found.findings.add(kind, where, detail=detail, sample=number, content=content or None)
        self.is_bad[row] |= KINDS[kind].severity == "error"

    def _place(self, key: str | None, row: int | None) -> tuple[str, int | None]:
        """The place in words, and the sample's number in the dataset."""
        if row is None:
            return f"{self._where}: {key}", None
        assert self._expected is not None, "a row is one of its records"
        number = self._expected.first_sample + row
        return f"{self._where}, number {row}", number


class SourceFails(Exception):
    """The tar's bytes cannot be had, which says nothing about the tar."""


class Source:
    """A stream whose own errors cannot be taken for those of the tar in it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        """As the stream's own; raises `SourceFails` where that fails."""
        try:
            return self._stream.read(size)
        except (OSError, DataError) as error:
            raise SourceFails(reason(error)) from error


def reason(error: OSError | DataError) -> str:
    """An error in words without the path, which is said beside it."""
    return str(error) if isinstance(error, DataError) else error.strerror or str(error)
