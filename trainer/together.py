"""Work on files that all ranks do, or one for all: where it fails on one, every rank says so."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from trainer.errors import RunError
from trainer.topology import Topology

T = TypeVar("T")


def on_each_rank(action: Callable[[], T], topology: Topology) -> list[T]:
    """What `action` returned, by rank; where it failed on one, every rank raises the same error.

    Raises:
        RunError: on every rank, where one could not write.
    """
    result, failure = None, None
    try:
        result = action()
    except OSError as error:
        failure = f"rank {topology.rank} cannot write a checkpoint: {error}"
    answers = gather((result, failure), topology)
    for _, failure in answers:
        if failure is not None:
            raise RunError(
                f"{failure}; the earlier ones are untouched: make room on the disk of the run"
                " folder and start the run again, it continues from the last checkpoint"
            )
    return [value for value, _ in answers]


def on_rank_0(action: Callable[[], T], topology: Topology) -> T:
    """What `action` returned on rank 0, on every rank; or its error, on every rank."""
    answers: list[Any] = on_each_rank(lambda: action() if topology.rank == 0 else None, topology)
    return answers[0]


def gather(value: Any, topology: Topology) -> list[Any]:
    """Every rank's value, by rank."""
    gathered: list[Any] = [None] * topology.world_size
    dist.all_gather_object(gathered, value, group=topology.group)
    return gathered
