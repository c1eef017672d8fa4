"""A disk that keeps a log of what it was asked, and what a machine that stops leaves of it.

The log is replayed up to any entry. What was synced is there; of the rest each write is there, not
there, or torn: some of its pieces are. Of names, some first part of the changes since the last sync
of the folder is there, as journalling file systems have it.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sharded_fc.tables.disk import Bytes, Disk, File

Image = dict[str, bytes]
"""The content of each file by its name: what a folder holds."""

_PIECE = 64  # bytes: smaller than a sector, so that records are torn too


@dataclass(frozen=True)
class Entry:
    """One request: kind, the file's number or names, and what else it says."""

    kind: str
    file: int = -1
    name: str = ""
    to: str = ""
    at: int = 0
    data: bytes = b""


class QuickFile(File):
    """A file that trusts the system not to stop; for what is read again by the same test."""

    def sync(self) -> None:
        pass


class QuickDisk(Disk):
    def open(self, path: Path) -> File:
        return QuickFile(path)

    def sync_folder(self, folder: Path) -> None:
        pass


class LoggedFile(QuickFile):
    def __init__(self, path: Path, number: int, log: list[Entry]) -> None:
        super().__init__(path)
        self.number = number
        self.log = log

    def write(self, at: int, data: Bytes) -> None:
        self.log.append(Entry("write", self.number, at=at, data=bytes(data)))
        super().write(at, data)

    def truncate(self, size: int) -> None:
        self.log.append(Entry("truncate", self.number, at=size))
        super().truncate(size)

    def sync(self) -> None:
        self.log.append(Entry("sync", self.number))


class LoggedDisk(QuickDisk):
    """A disk whose log begins with the present content of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.log: list[Entry] = []
        self.start = image_of(folder)
        self._numbers = {name: number for number, name in enumerate(self.start)}
        self._next = len(self._numbers)

    def open(self, path: Path) -> File:
        if path.name not in self._numbers:
            self._numbers[path.name] = self._next
            self._next += 1
            self.log.append(Entry("create", self._numbers[path.name], name=path.name))
        return LoggedFile(path, self._numbers[path.name], self.log)

    def rename(self, path: Path, to: Path) -> None:
        self.log.append(Entry("rename", name=path.name, to=to.name))
        self._numbers[to.name] = self._numbers.pop(path.name)
        super().rename(path, to)

    def remove(self, path: Path) -> None:
        self.log.append(Entry("remove", name=path.name))
        del self._numbers[path.name]
        super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        self.log.append(Entry("sync folder"))


@dataclass
class _Content:
    safe: bytearray
    waiting: list[Entry] = field(default_factory=list)


def image_of(folder: Path) -> Image:
    if not folder.exists():
        return {}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_image(folder: Path, image: Image) -> None:
    """Make the folder; files of zeros are holes."""
    folder.mkdir(parents=True)
    for name, content in image.items():
        (folder / name).write_bytes(content if any(content) else b"")
        os.truncate(folder / name, len(content))


def stopped(start: Image, log: list[Entry], rng: np.random.Generator) -> Image:
    """What is left of a disk that held `start`, was asked all of `log` and then stopped."""
    names = {name: number for number, name in enumerate(start)}
    files = {number: _Content(bytearray(content)) for number, content in enumerate(start.values())}
    waiting_names: list[Entry] = []
    for entry in log:
        if entry.kind in ("create", "rename", "remove"):
            waiting_names.append(entry)
            if entry.kind == "create":
                files[entry.file] = _Content(bytearray())
        elif entry.kind == "sync folder":
            for waiting in waiting_names:
                _name(names, waiting)
            waiting_names.clear()
        elif entry.kind == "sync":
            for waiting in files[entry.file].waiting:
                _apply(files[entry.file].safe, waiting)
            files[entry.file].waiting.clear()
        elif entry.kind in ("write", "truncate"):
            files[entry.file].waiting.append(entry)
    for waiting in waiting_names[: rng.integers(len(waiting_names) + 1)]:
        _name(names, waiting)
    for content in files.values():
        for waiting in content.waiting:
            fate = rng.integers(3)
            if fate == 0:
                _apply(content.safe, waiting)
            elif fate == 1 and waiting.kind == "write":
                for first in range(0, len(waiting.data), _PIECE):
                    if rng.integers(2):
                        part = waiting.data[first : first + _PIECE]
                        _apply(content.safe, Entry("write", at=waiting.at + first, data=part))
    return {name: bytes(files[number].safe) for name, number in names.items()}


def _name(names: dict[str, int], entry: Entry) -> None:
    if entry.kind == "create":
        names[entry.name] = entry.file
    elif entry.kind == "rename":
        names[entry.to] = names.pop(entry.name)
    else:
        del names[entry.name]


def _apply(content: bytearray, entry: Entry) -> None:
    end = entry.at + len(entry.data)
    if entry.kind == "truncate":
        del content[entry.at :]
    content.extend(bytes(max(0, end - len(content))))
    content[entry.at : end] = entry.data
