"""Work on files that all ranks do, or one for all: where it fails on one, every rank says so."""

import errno
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from trainer.errors import DiskFullError, RunError
from trainer.topology import Topology

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")


def on_each_rank(action: Callable[[], T], topology: Topology) -> list[T]:
    """What `action` returned, by rank; where it failed on one, every rank raises the same error.

    Raises:
        DiskFullError: on every rank, where one had no room.
        RunError: on every rank, where one could not write for another reason.
    """
    result, failure, full = None, None, False
    try:
        result = action()
    except OSError as error:
        failure = f"rank {topology.rank} cannot write a checkpoint: {error}"
        full = error.errno in FULL or getattr(error, "full", False)
    answers = gather((result, failure, full), topology)
    for _, failure, full in answers:
        if failure is not None:
            advice = "make room on" if full else "see to"
            kind = DiskFullError if full else RunError
            raise kind(
                f"{failure}; the earlier ones are untouched: {advice} the disk of the run folder"
            )
    return [value for value, *_ in answers]


def on_rank_0(action: Callable[[], T], topology: Topology) -> T:
    """What `action` returned on rank 0, on every rank; or its error, on every rank."""
    answers: list[Any] = on_each_rank(lambda: action() if topology.rank == 0 else None, topology)
    return answers[0]


def gather(value: Any, topology: Topology) -> list[Any]:
    """Every rank's value, by rank."""
    gathered: list[Any] = [None] * topology.world_size
    dist.all_gather_object(gathered, value, group=topology.group)
    return gathered
