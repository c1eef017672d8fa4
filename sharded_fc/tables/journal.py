"""What blocks of a table held at a checkpoint, kept before they are changed for the first time.

    page 0      magic, id of the table, step of the checkpoint, step of the one before (-1: none)
    then frames header, block numbers, contents; padded to whole pages

A frame counts once it is synced, and blocks are written only then. So whatever a crash leaves at
the end, dropped or torn, belongs to blocks that are as they were: reading stops there. A frame also
says how many before it were synced when it was written; if one of those cannot be read the disk has
lost it, and that is refused, not skipped.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sharded_fc.files import partial_path
from sharded_fc.tables.disk import Disk, File
from sharded_fc.tables.runs import Numbers

PAGE = 4096
_BEGINNING = struct.Struct("<8s16sqqI")  # and a CRC-32 of what stands before it
_FRAME = struct.Struct("<8sqqqqII")  # likewise
_MAGIC, _FRAME_MAGIC = b"undo-1\r\n", b"frame-1\n"

Contents = UInt8[np.ndarray, "..."]


class DamagedError(OSError):
    """Something that was synced cannot be read back."""


@dataclass(frozen=True)
class _Frame:
    sequence: int
    durable: int
    count: int
    payload_bytes: int
    crc: int

    @property
    def bytes(self) -> int:
        return -(-(_FRAME.size + self.payload_bytes) // PAGE) * PAGE


@dataclass(frozen=True)
class Entry:
    """Blocks of one frame: those that held nothing but zeros, and those that held `contents`."""

    absent: Numbers
    present: Numbers
    contents: bytes
    at: int
    """Where the contents begin in the journal."""


class Journal:
    """The journal of one checkpoint, open for adding to it."""

    def __init__(self, disk: Disk, path: Path, *, table: bytes) -> None:
        self.path = path
        self._file = disk.open(path)
        try:
            self.step, self.previous = _read_beginning(self._file, table)
        except BaseException:
            self._file.close()
            raise
        self._end = PAGE
        self._frames = 0
        self._durable = 0

    @classmethod
    def create(
        cls, disk: Disk, folder: Path, *, table: bytes, step: int, previous: int
    ) -> "Journal":
        """An empty journal. That it has its name makes the table's present state a checkpoint."""
        path = folder / f"undo-{step:012d}"
        partial = partial_path(path)
        file = disk.open(partial)
        try:
            file.truncate(0)
            beginning = _BEGINNING.pack(_MAGIC, table, step, previous, 0)[:-4]
            file.write(0, (beginning + _crc(beginning)).ljust(PAGE, b"\0"))
            file.sync()
        finally:
            file.close()
        disk.rename(partial, path)
        return cls(disk, path, table=table)

    @property
    def taken_bytes(self) -> int:
        """What the journal takes on the disk, once it was read or written to the end."""
        return self._end

    def add(self, absent: Numbers, present: Numbers, contents: Contents) -> None:
        """Keep the `contents` of the `present` blocks, one after the other; it is not yet synced.

        After an error the journal is as before.
        """
        numbers = np.concatenate([~absent, present]).astype("<i8")
        payload = (numbers.data.cast("B"), contents.reshape(-1).data)
        crc = zlib.crc32(payload[1], zlib.crc32(payload[0]))
        size = sum(len(part) for part in payload)
        frame = _Frame(self._frames, self._durable, len(numbers), size, crc)
        header = _FRAME.pack(
            _FRAME_MAGIC, frame.sequence, frame.durable, frame.count, size, crc, 0
        )[:-4]
        at = self._end
        for part in (header + _crc(header), *payload, bytes(frame.bytes - _FRAME.size - size)):
            self._file.write(at, part)
            at += len(part)
        self._end += frame.bytes
        self._frames += 1

    def sync(self) -> None:
        """Return when everything added is on the disk."""
        self._file.sync()
        self._durable = self._frames

    def entries(self) -> Iterator[Entry]:
        """All that was added and synced, and what else can be read; adding goes on behind it.

        Raises:
            DamagedError: a frame that was synced cannot be read.
        """
        self._end, self._frames = PAGE, 0
        while frame := self._frame_at(self._end):
            payload = self._file.read(self._end + _FRAME.size, frame.payload_bytes)
            if frame.sequence != self._frames or zlib.crc32(payload) != frame.crc:
                break
            numbers = np.frombuffer(payload, "<i8", frame.count).astype(np.int64)
            yield Entry(
                absent=~numbers[numbers < 0],
                present=numbers[numbers >= 0],
                contents=payload[8 * frame.count :],
                at=self._end + _FRAME.size + 8 * frame.count,
            )
            self._end += frame.bytes
            self._frames += 1
        for at in range(self._end, self._file.size(), PAGE):
            later = self._frame_at(at)
            if later is not None and later.durable > self._frames:
                raise DamagedError(
                    f"{self.path} cannot be read from byte {self._end} on, though more was synced:"
                    " the disk has lost it; start from a copy of the table or anew"
                )

    def read(self, at: int, size: int) -> bytes:
        """A part of an entry's contents."""
        return self._file.read(at, size)

    def clear(self) -> None:
        """Forget the frames: the table is again what it was at the checkpoint."""
        self._file.truncate(PAGE)
        self._file.sync()
        self._end, self._frames, self._durable = PAGE, 0, 0

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _frame_at(self, at: int) -> _Frame | None:
        header = self._file.read(at, _FRAME.size)
        if len(header) < _FRAME.size or header[-4:] != _crc(header[:-4]):
            return None
        magic, *numbers, _ = _FRAME.unpack(header)
        return _Frame(*numbers) if magic == _FRAME_MAGIC else None


def open_chain(disk: Disk, folder: Path, *, table: bytes) -> list[Journal]:
    """The table's journals, by ascending step: the newest and those before it without a gap."""
    chain: list[Journal] = []
    try:
        for path in sorted(folder.glob("undo-*"), reverse=True):
            journal = Journal(disk, path, table=table)
            if chain and chain[0].previous != journal.step:
                journal.close()
                break
            chain.insert(0, journal)
    except BaseException:
        for journal in chain:
            journal.close()
        raise
    if not chain:
        raise FileNotFoundError(f"{folder} has lost its undo files; start the table anew")
    return chain


def _read_beginning(file: File, table: bytes) -> tuple[int, int]:
    found = file.read(0, _BEGINNING.size)
    if len(found) < _BEGINNING.size or found[-4:] != _crc(found[:-4]):
        raise DamagedError(f"the beginning of {file.path} cannot be read; it was synced once")
    magic, owner, step, previous, _ = _BEGINNING.unpack(found)
    if magic != _MAGIC or owner != table:
        raise ValueError(f"{file.path} is of another table or version; put back the table's own")
    return step, previous


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data))
