"""Folders that exist completely or not at all.

Everything is written to `<dest>.partial` beside the destination, synced, and renamed; the rename
is the commit. A lock on the partial folder, which dies with its process, tells a killed writer
from a living one. What a killed writer left is replaced by the next `committed_folder` and found
again by the next `resumable_folder`.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import DataError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(kw_only=True)
class Unfinished:
    """The two folders in which a destination comes to be."""

    dataset: Path
    """Becomes the destination."""
    scratch: Path
    """For anything that helps on the way; it goes with the commit."""
    worth_keeping: bool = False
    """Whether an exception leaves both for a next time."""


@contextmanager
def committed_folder(dest: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `dest` if the block ends without an exception."""
    partial = dest.with_name(dest.name + ".partial")
    with _locked(dest, partial, afresh=True):
        try:
            yield partial
            _commit(partial, dest)
        except BaseException:
            with suppress(FileNotFoundError):
                shutil.rmtree(partial)
            raise


@contextmanager
def resumable_folder(dest: Path, *, restart: bool = False) -> Iterator[Unfinished]:
    """Two folders to write into, as an earlier writer left them unless `restart`.

    The one for the dataset becomes `dest` if the block ends without an exception.
    """
    partial = dest.with_name(dest.name + ".partial")
    with _locked(dest, partial, afresh=restart):
        unfinished = Unfinished(dataset=partial / "dataset", scratch=partial / "scratch")
        try:
            unfinished.dataset.mkdir(exist_ok=True)
            unfinished.scratch.mkdir(exist_ok=True)
            yield unfinished
            _commit(unfinished.dataset, dest)
            shutil.rmtree(partial)
        except BaseException as error:
            if not unfinished.worth_keeping:
                shutil.rmtree(partial)
            elif isinstance(error, OSError) and error.errno in FULL:
                raise DataError(
                    f"cannot write {partial}: {error.strerror}; make room and repeat the command, "
                    "which goes on where this one stopped"
                ) from error
            raise


def sync(path: Path) -> None:
    """Have the system write a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(dest: Path, partial: Path, *, afresh: bool) -> Iterator[None]:
    if dest.exists() or dest.is_symlink():
        raise DataError(f"{dest} exists already and is left as it is; choose another name")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        if afresh:
            _remove_leftover(partial)
        partial.mkdir(exist_ok=not afresh)
        held = lock(partial)
    except OSError as error:
        raise DataError(f"cannot write {partial}: {error.strerror or error}") from error
    try:
        yield
    finally:
        os.close(held)


def _commit(folder: Path, dest: Path) -> None:
    for file in sorted(folder.iterdir()):
        sync(file)
    sync(folder)
    if dest.exists():
        raise DataError(f"{dest} was made by somebody else meanwhile and is left as it is")
    folder.rename(dest)
    sync(dest.parent)


def _remove_leftover(partial: Path) -> None:
    with suppress(FileNotFoundError):
        held = lock(partial)
        try:
            shutil.rmtree(partial)
        finally:
            os.close(held)


def lock(folder: Path) -> int:
    """A descriptor that keeps other writers off a folder until it is closed, or its process ends.

    Raises:
        DataError: another process writes there.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DataError(
            f"{folder} is being written by another process; wait for it, or choose another name"
        ) from None
    return handle
