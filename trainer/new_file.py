"""Writes a new file that appears whole or not at all, and never in place of another."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import DiskFullError, RunError
from trainer.tensor_file import sync_folder

OWNER_ALONE, AS_USUAL = 0o600, 0o666
"""Permissions, of which the process's umask then takes its part."""


def expect_new(path: Path) -> None:
    """Refuse a path that is taken, or that is in no folder, before work is done for it.

    Raises:
        RunError: it is.
    """
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} exists; choose another name or remove it")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent} is no folder; make it first")


@contextmanager
def written_beside(path: Path, content: bytes, *, mode: int = AS_USUAL) -> Iterator[Path]:
    """A file beside `path`, durable, which takes its name if the block ends well.

    Raises:
        RunError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(partial, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield partial
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        kind = DiskFullError if error.errno == errno.ENOSPC else RunError
        raise kind(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
