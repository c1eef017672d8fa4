"""Folders that exist completely or not at all.

Everything is written to `<dest>.partial` beside the destination, synced, and renamed; the rename
is the commit. A killed writer leaves a partial folder that the next one replaces; a lock on the
folder, which dies with its process, tells a killed writer from a living one.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.errors import DataError


@contextmanager
def committed_folder(dest: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `dest` if the block ends without an exception."""
    if dest.exists() or dest.is_symlink():
        raise DataError(f"{dest} exists already and is left as it is; choose another name")
    partial = dest.with_name(dest.name + ".partial")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftover(partial)
        partial.mkdir()
        lock = _lock(partial)
    except OSError as error:
        raise DataError(f"cannot write {partial}: {error.strerror or error}") from error
    try:
        yield partial
        for file in sorted(partial.iterdir()):
            sync(file)
        sync(partial)
        if dest.exists():
            raise DataError(f"{dest} was made by somebody else meanwhile and is left as it is")
        partial.rename(dest)
        sync(dest.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            shutil.rmtree(partial)
        raise
    finally:
        os.close(lock)


def sync(path: Path) -> None:
    """Have the system write a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftover(partial: Path) -> None:
    with suppress(FileNotFoundError):
        lock = _lock(partial)
        try:
            shutil.rmtree(partial)
        finally:
            os.close(lock)


def _lock(folder: Path) -> int:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DataError(
            f"{folder} is being written by another process; wait for it, or choose another name"
        ) from None
    return handle
