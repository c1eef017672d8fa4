"""Checkpoints of a head whose rows are outside the device: in its tables, beside the run's own.

A save makes a checkpoint in every rank's table, then renames its manifest, which names the tables;
only then may tables forget. So a run that stops anywhere finds what its newest manifest names.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from sharded_fc import ShardedHead
from trainer import manifest
from trainer.errors import RunError
from trainer.manifest import DamagedError, Manifest
from trainer.pool import Head
from trainer.tensor_file import read_tensors
from trainer.together import on_rank_0
from trainer.topology import Topology

HISTORY = "history.safetensors"
"""What rows that stay behind need of the past (`head.history`)."""

log = logging.getLogger("facescale")


def outside(head: Head) -> bool:
    """Whether the head's rows are outside the device."""
    return isinstance(head, ShardedHead) and head.outside


def keep_rows(head: Head, *, step: int) -> str | None:
    """Make this rank's rows a checkpoint; the name of its table, None for rows on the device."""
    if not (isinstance(head, ShardedHead) and head.outside):
        return None
    return head.checkpoint(step)


def history(head: Head) -> dict[str, Tensor]:
    """What goes with `keep_rows`, the same on every rank; nothing for rows on the device."""
    return head.history() if isinstance(head, ShardedHead) and head.outside else {}


def restore_rows(head: Head, path: Path, content: Manifest) -> None:
    """Go back to the tables that the checkpoint at `path` names.

    Raises:
        RunError: the head keeps its rows on the device.
        ValueError: a table is missing, or the head is another.
    """
    if not (isinstance(head, ShardedHead) and head.outside):
        raise RunError(
            f"{path} has its rows in tables; continue with the head.rows of the run that saved it"
        )
    past = read_tensors(path / HISTORY) if HISTORY in content.files else {}
    head.restore(content.tables, content.head, past, step=content.step)


def forget_rows(head: Head, kept: Iterable[Path], topology: Topology) -> None:
    """Give back what tables hold for other checkpoints than those at `kept`; every rank calls it.

    A disk that refuses is told in the log.
    """
    if not (isinstance(head, ShardedHead) and head.outside):
        return
    oldest, names = on_rank_0(lambda: _needed(kept), topology)
    try:
        head.forget(before=oldest, tables=names)
    except OSError as error:
        log.warning("rows of old checkpoints cannot be removed: %s", error)


def _needed(kept: Iterable[Path]) -> tuple[int, set[str]]:
    """The first step that a checkpoint is of, and the tables that all of them name."""
    steps, names = [], set()
    for path in kept:
        try:
            content = manifest.read(path)
        except DamagedError:
            continue
        steps.append(content.step)
        names |= set(content.tables)
    return min(steps), names
