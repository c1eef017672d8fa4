"""Tars of object storage on this machine's disk: each is fetched once and shared by all processes.

A folder holds `<sha256>.tar` for every tar that arrived whole and `<sha256>.<bytes>.part` for one
on its way; the names are digests from the index, so one tar in two datasets is one file. Whoever
holds the lock of a part fetches it; the others wait for that. A part that a killed process left is
taken up where it stopped. What arrived is compared with its sha256, synced and renamed, so a name
that ends in `.tar` is always complete. Locks die with their process: nothing has to be cleaned up.

The least recently opened tars make room for new ones. Those that somebody has open go last: the
disk gets their space back when they are closed, and until then a cache that is too small for what
is read at once takes more than its bound.
"""

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.addresses import Address
from data_pipeline.errors import DataError
from data_pipeline.index_file import File
from data_pipeline.remote import Remote

FOLDER = "FACESCALE_CACHE"
SIZE_GIB = "FACESCALE_CACHE_GIB"
DEFAULT_GIB = 64
PIECE = 1 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHOLE = re.compile(r"[0-9a-f]{64}\.tar")
_PART = re.compile(r"[0-9a-f]{64}\.([0-9]+)\.part")
_LOCK = "lock"

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Fetching was given up because `stopping` said so; what came is kept for the next time."""


class ShardCache:
    """The cached tars of a folder; any number of processes and threads may use one folder."""

    def __init__(self, folder: Path, *, max_bytes: int, remote: Remote) -> None:
        """Make the folder if need be, for this user alone: what it holds are faces.

        Raises:
            DataError: it cannot be made, or belongs to somebody else.
        """
        self._folder = folder
        self._max_bytes = max_bytes
        self._remote = remote
        self._warned = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise DataError(
                    f"the cache {folder} belongs to another user; name your own in {FOLDER}"
                )
        except OSError as error:
            raise DataError(
                f"the cache {folder} cannot be made ({error.strerror}); name another in {FOLDER}"
            ) from error

    @classmethod
    def of_node(cls, environ: Mapping[str, str] = os.environ) -> "ShardCache":
        """As this machine is set up, by `FACESCALE_CACHE` (a folder) and `FACESCALE_CACHE_GIB`.

        Without them: `facescale/tars` in the user's cache folder, and 64.
        """
        base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        gib = environ.get(SIZE_GIB, str(DEFAULT_GIB))
        if not re.fullmatch(r"[0-9]{1,7}", gib) or int(gib) == 0:
            raise DataError(f"{SIZE_GIB} is {gib!r}; it must be a whole number of GiB")
        folder = Path(environ.get(FOLDER) or Path(base) / "facescale" / "tars")
        return cls(folder, max_bytes=int(gib) << 30, remote=Remote.of_node(environ))

    def open(
        self, address: Address, tar: File, *, stopping: Callable[[], bool] = lambda: False
    ) -> int:
        """An open file with a tar's bytes, fetched now if it is not here; the caller closes it.

        Raises:
            DataError: it cannot be fetched, is not the tar that was indexed, or does not fit.
            Stopped: `stopping` became true on the way.
        """
        if not _DIGEST.fullmatch(tar.sha256):
            raise DataError(f"{address}: {tar.sha256!r} is no sha256; make the index again")
        whole = self._folder / f"{tar.sha256}.tar"
        while True:
            file = _opened(whole, tar)
            if file is not None:
                return file
            part = self._folder / f"{tar.sha256}.{tar.bytes}.part"
            try:
                with self._reserved(part, tar.bytes, address) as handle:
                    if handle is None:
                        continue
                    if whole.exists():  # it came between our look and our part
                        part.unlink(missing_ok=True)
                        continue
                    self._fetch(handle, address, tar, stopping)
                    part.rename(whole)
            except OSError as error:
                raise DataError(
                    f"the cache {self._folder} cannot take {address} ({error.strerror}); "
                    f"free its disk, or set a smaller {SIZE_GIB}"
                ) from error

    @contextmanager
    def _reserved(self, part: Path, size: int, address: Address) -> Iterator[int | None]:
        """The part, locked, with room for all of it; `None` after another process let go of it.

        Room is made and parts are locked under one lock, so that no part that is being fetched is
        ever taken for a leftover. Waiting for one is done outside of it.
        """
        with _locked(self._folder / _LOCK):
            self._make_room(size, keep=part.name, address=address)
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            ours = _lock_now(handle)
        try:
            if not ours:
                fcntl.flock(handle, fcntl.LOCK_SH)
            yield handle if ours and _is_at(handle, part) else None
        finally:
            os.close(handle)

    def _fetch(
        self, handle: int, address: Address, tar: File, stopping: Callable[[], bool]
    ) -> None:
        """Fill a part up to the whole tar, and compare it with its digest."""
        here = min(os.fstat(handle).st_size, tar.bytes)
        for start in (here, 0) if here else (0,):
            os.ftruncate(handle, start)
            digest = hashlib.sha256()
            for at in range(0, start, PIECE):
                digest.update(os.pread(handle, min(PIECE, start - at), at))
            for at, content in self._pieces(address, start, tar.bytes):
                if stopping():
                    raise Stopped
                digest.update(content)
                _write(handle, content, at)
            if digest.hexdigest() == tar.sha256:
                os.fsync(handle)
                return
        os.ftruncate(handle, 0)
        raise DataError(
            f"{address} is not the tar that was indexed (its sha256 differs); "
            "make the index again, or put the old tar back"
        )

    def _pieces(self, address: Address, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """(place, content) from `start` on to `stop`, or to the end if that comes first."""
        at = start
        with self._remote.open(address, start=start) as stream:
            while at < stop and (content := stream.read(min(PIECE, stop - at))):
                yield at, content
                at += len(content)

    def _make_room(self, size: int, *, keep: str, address: Address) -> None:
        """Delete what was opened longest ago until `size` bytes more are within the bound."""
        if size > self._max_bytes:
            raise DataError(
                f"{address} has {size} bytes, more than the whole cache; set a larger {SIZE_GIB}"
            )
        held: list[tuple[bool, int, int, Path]] = []  # (in use, opened at, bytes, path)
        total = size
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                info = path.stat()
                part = _PART.fullmatch(path.name)
                if path.name == keep or not (part or _WHOLE.fullmatch(path.name)):
                    continue
                occupied = int(part[1]) if part else info.st_size
                total += occupied
                in_use = _is_locked(path)
                if not (part and in_use):  # a tar on its way stays
                    held.append((in_use, info.st_mtime_ns, occupied, path))
        for in_use, _, occupied, path in sorted(held):
            if total <= self._max_bytes:
                return
            if in_use:
                self._warn_once()
            path.unlink(missing_ok=True)
            total -= occupied

    def _warn_once(self) -> None:
        if not self._warned:
            log.warning(
                "the cache %s is too small for the tars that are read at once, so some are fetched "
                "again and again; set a larger %s, or a smaller shuffle window",
                self._folder,
                SIZE_GIB,
            )
        self._warned = True


def _write(handle: int, content: bytes, at: int) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(handle, content[written:], at + written)


def _opened(whole: Path, tar: File) -> int | None:
    """A complete tar, with a shared lock that says it is in use; its time says it was just used."""
    try:
        handle = os.open(whole, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if os.fstat(handle).st_size != tar.bytes:  # a disk that lost its end, or somebody's edit
        os.close(handle)
        whole.unlink(missing_ok=True)
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    with suppress(OSError):
        os.utime(handle)
    return handle


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return not _lock_now(handle)
    finally:
        os.close(handle)


def _lock_now(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file still is the one at a path, and not renamed or deleted meanwhile."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False
