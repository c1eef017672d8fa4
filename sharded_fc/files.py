"""Files that are either whole or absent, written by one rank or by all of them together.

A file is written beside its place and renamed. Where several ranks take part, all of them learn
whether all succeeded, so that none waits for a rank that gave up.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sharded_fc.collectives import Ranks


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is whole: one name, so that a later try replaces it."""
    return path.with_name(f".{path.name}.partial")


def commit(path: Path) -> None:
    """Give the finished partial file its name, and put the name on the disk."""
    partial_path(path).replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A path to write to, that becomes `path` at the end; after an error `path` is as it was."""
    partial = partial_path(path)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        commit(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def together(
    action: Callable[[], None], *, takes_part: bool, ranks: Ranks, device: torch.device
) -> None:
    """Run `action` on the ranks that take part; return, or raise, on every rank.

    Collectives: one all_gather of an integer.

    Raises:
        OSError: its own on a rank that failed; elsewhere one that names the first such rank.
    """
    failure = None
    if takes_part:
        try:
            action()
        except OSError as error:
            failure = error
    failed = ranks.exchange_integers([int(failure is not None)], device=device)
    if failure is not None:
        raise failure
    if [1] in failed:
        raise OSError(f"rank {failed.index([1])} could not write its part; its log says why")
