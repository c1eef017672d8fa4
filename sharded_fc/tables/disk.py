"""All that tables ask of the file system: writes by position, syncs, renames.

What is not synced may be lost or half written when the machine stops. So that tests can stop it at
every point, tables change files through nothing else.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

Bytes = bytes | memoryview


class File:
    """A file open for reading and writing; made if absent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._unsynced: OSError | None = None

    def size(self) -> int:
        """Bytes from the beginning to the end, holes included."""
        return os.fstat(self.descriptor).st_size

    def read(self, at: int, size: int) -> bytes:
        """The bytes from `at`, fewer where the file ends before."""
        found = bytearray()
        while len(found) < size and (part := os.pread(self.descriptor, size - len(found), at)):
            found += part
            at += len(part)
        return bytes(found)

    def extents(self) -> Iterator[tuple[int, int]]:
        """[start, stop) bytes outside of which there are only holes."""
        at, size = 0, self.size()
        while at < size:
            try:
                start = os.lseek(self.descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # only a hole is left
                    raise
                return
            at = os.lseek(self.descriptor, start, os.SEEK_HOLE)
            yield start, at

    def expect(self, at: int, size: int) -> None:
        """Have the system read these bytes ahead, while this returns at once."""
        if hasattr(os, "posix_fadvise"):  # not everywhere; only speed depends on it
            os.posix_fadvise(self.descriptor, at, size, os.POSIX_FADV_WILLNEED)

    def write(self, at: int, data: Bytes) -> None:
        """Write all of `data` from `at` on."""
        rest = memoryview(data).cast("B")
        while rest:
            written = os.pwrite(self.descriptor, rest, at)
            at += written
            rest = rest[written:]

    def truncate(self, size: int) -> None:
        """Cut the file or grow it with a hole."""
        os.ftruncate(self.descriptor, size)

    def sync(self) -> None:
        """Return when all that was written is on the disk.

        After an error every further call raises too: what was dropped then, the system tells once.
        """
        if self._unsynced is not None:
            raise OSError(self._unsynced.errno, self._unsynced.strerror) from self._unsynced
        try:
            os.fdatasync(self.descriptor)
        except OSError as error:
            self._unsynced = error
            raise

    def close(self) -> None:
        """Give the file back; a second time does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Disk:
    """Files and their names."""

    def open(self, path: Path) -> File:
        """The file at `path`, made if absent."""
        return File(path)

    def rename(self, path: Path, to: Path) -> None:
        """Give a file a name, on the disk when this returns; one that had the name is gone."""
        path.replace(to)
        self.sync_folder(to.parent)

    def remove(self, path: Path) -> None:
        """Take a file's name away, on the disk when this returns."""
        path.unlink()
        self.sync_folder(path.parent)

    def sync_folder(self, folder: Path) -> None:
        """Put the names in `folder` on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
