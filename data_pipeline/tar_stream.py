"""The regular members of a tar in one pass over its bytes, strictly: a fault is never an end.

Python's `tarfile` takes a damaged header in the middle for the end of the archive; this reader
raises instead. It extracts nothing, follows nothing and holds one member at a time. Understood are
the ustar, GNU (long names) and pax (path, size) forms; directories, links, devices and sparse files
are passed over and counted.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from data_pipeline.errors import DataError

BLOCK = tarfile.BLOCKSIZE
MOST_HEADER_BYTES = 1 << 20  # of a long name or a set of pax records; real ones are a few hundred
PIECE = 1 << 20
GZIP = b"\x1f\x8b"

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_KINDS = {
    tarfile.DIRTYPE: "directories",
    tarfile.SYMTYPE: "links",
    tarfile.LNKTYPE: "links",
    tarfile.CHRTYPE: "devices",
    tarfile.BLKTYPE: "devices",
    tarfile.FIFOTYPE: "devices",
}


@runtime_checkable  # by the shape checks of the tests
class Readable(Protocol):
    """A stream that can only be read forwards."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Member:
    """One regular member; `content` is `None` where it is longer than the reader's limit."""

    name: str
    offset: int
    """Of the content, from the start of the tar."""
    size: int
    content: bytes | None


class TarStream:
    """Iterates over the regular members of a tar, once, in order."""

    def __init__(self, stream: Readable, *, max_member_bytes: int) -> None:
        """Read from `stream`; longer contents are read over without being held."""
        self.passed_over: Counter[str] = Counter()
        """Members that are no regular files, by kind, so far."""
        self._stream = stream
        self._max_member_bytes = max_member_bytes
        self._position = 0

    def __iter__(self) -> Iterator[Member]:
        """Every regular member.

        Raises:
            DataError: at the place where the tar is cut, damaged or no tar at all.
        """
        name: str | None = None  # from records that precede a member
        size: int | None = None
        while (header := self._header()) is not None:
            if header.type == tarfile.GNUTYPE_LONGNAME:
                name = _text(self._extension(header).rstrip(b"\0"))
                continue
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
                records = self._pax(self._extension(header))
                name = records.get("path", name)
                size = self._pax_size(records)
                continue
            if header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                self._skip(_blocks(header.size))
                continue
            length = header.size if size is None else size
            if header.type in _REGULAR:
                yield self._member(header.name if name is None else name, length)
            else:
                self.passed_over[_KINDS.get(header.type, "others")] += 1
                if header.type not in _KINDS:
                    self._skip(_blocks(length))
            name = size = None
        while piece := self._stream.read(PIECE):
            if piece.strip(b"\0"):
                raise DataError("it goes on after its end mark; tars cannot be joined with `cat`")

    def _header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(BLOCK)
        while 0 < len(block) < BLOCK and (more := self._stream.read(BLOCK - len(block))):
            block += more
        at = self._position
        self._position += len(block)
        if len(block) == BLOCK and not block.strip(b"\0"):
            return None
        if len(block) < BLOCK:
            place = "in a header" if block else "before its end mark"
            where = f"it is cut at byte {self._position}, {place}"
            raise DataError(where if self._position else "it is empty")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            what = f"has a damaged header at byte {at}" if at else "is no tar"
            if block[:2] == GZIP:
                what = "is compressed; unpack it first, since samples are read at random"
            raise DataError(f"it {what} ({error})") from error
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise DataError(f"it has a sparse file at byte {at}; pack it without -S")
        if header.size < 0:
            raise DataError(f"it has a damaged header at byte {at} (negative size)")
        return header

    def _member(self, name: str, size: int) -> Member:
        offset = self._position
        content = None
        if size <= self._max_member_bytes:
            content = self._exactly(size)
            self._skip(_blocks(size) - size)
        else:
            self._skip(_blocks(size))
        return Member(name=name, offset=offset, size=size, content=content)

    def _extension(self, header: tarfile.TarInfo) -> bytes:
        if header.size > MOST_HEADER_BYTES:
            raise DataError(f"it has a header of {header.size} bytes at byte {self._position}")
        return self._exactly(_blocks(header.size))[: header.size]

    def _pax(self, records: bytes) -> dict[str, str]:
        """Records of a length (in decimal, of all of it), a blank, keyword=value, a newline."""
        found = {}
        at = 0
        while at < len(records):
            length_text, _, rest = records[at : at + 32].partition(b" ")
            if not length_text.isdigit() or not rest or int(length_text) <= len(length_text):
                raise DataError(f"it has damaged pax records before byte {self._position}")
            record = records[at + len(length_text) + 1 : at + int(length_text) - 1]
            keyword, _, value = record.partition(b"=")
            found[_text(keyword)] = _text(value)
            at += int(length_text)
        return found

    def _pax_size(self, records: dict[str, str]) -> int | None:
        if any(keyword.startswith("GNU.sparse.") for keyword in records):
            raise DataError(f"it has a sparse file at byte {self._position}; pack it without -S")
        size = records.get("size")
        if size is None:
            return None
        if not size.isascii() or not size.isdigit():
            raise DataError(f"it has damaged pax records before byte {self._position}")
        return int(size)

    def _exactly(self, size: int) -> bytes:
        pieces = []
        missing = size
        while missing:
            piece = self._stream.read(missing)
            if not piece:
                raise DataError(f"it is cut: its last member begins at byte {self._position}")
            pieces.append(piece)
            missing -= len(piece)
        self._position += size
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(size, PIECE)))


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
