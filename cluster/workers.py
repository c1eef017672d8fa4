"""What a Ray Train worker runs: meet the other ranks, train, say how it ended.

The ranks meet at a store whose socket rank 0 binds to its node's Ray address. Ray's own TorchConfig
lets torch listen on all interfaces instead, on a laptop too.
"""

import importlib.metadata
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cluster.failures import RankFailed
from data_pipeline.errors import DataError
from trainer.config import RunConfig
from trainer.errors import RunError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from trainer.topology import Topology

Outcome = Literal["finished", "stopped"]


class Train(Protocol):
    """The trainer's entry: `trainer.loop.run_worker`, or a test's stand-in."""

    def __call__(
        self, config: RunConfig, *, topology: "Topology", folder: Path, attempt: int
    ) -> Outcome:
        """Train until done or asked to stop."""
        ...


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What every rank of an attempt is given."""

    config: RunConfig
    folder: Path
    attempt: int
    train: Train
    version: str


def installed_version() -> str:
    """The facescale of this Python."""
    return importlib.metadata.version("facescale")


def train_installed(
    config: RunConfig, *, topology: "Topology", folder: Path, attempt: int
) -> Outcome:
    """`trainer.loop.run_worker`, imported where it runs: drivers need no torch."""
    from trainer.loop import run_worker

    return run_worker(config, topology=topology, folder=folder, attempt=attempt)


def run_rank(settings: dict[str, Assignment]) -> Outcome:
    """The function that Ray Train calls on each rank; its value is the attempt's outcome.

    Raises:
        RankFailed: for whatever the training function raised.
    """
    from ray import train as ray_train

    context = ray_train.get_context()
    rank, assignment = context.get_world_rank(), settings["assignment"]
    try:
        return _run(
            assignment, rank, context.get_world_size(), context.get_local_rank(), _broadcast
        )
    except Exception as error:
        lines = str(error).strip().splitlines()
        refused = isinstance(error, RunError | DataError)
        summary = lines[0] if lines else ""
        raise RankFailed(
            rank,
            time.time(),
            summary if refused else f"{type(error).__name__}: {summary}",
            refused,
            traceback.format_exc(),
        ) from None


def _broadcast(meeting: tuple[str, int] | None) -> tuple[str, int]:
    from ray.train.collective import broadcast_from_rank_zero

    result = broadcast_from_rank_zero(meeting)
    assert result is not None
    return result


def _run(
    assignment: Assignment,
    rank: int,
    world_size: int,
    local_rank: int,
    broadcast: Callable[[tuple[str, int] | None], tuple[str, int]],
) -> Outcome:
    import torch.distributed as dist

    from trainer.launch import COLLECTIVE_TIMEOUT
    from trainer.topology import Topology, choose_backend

    if installed_version() != assignment.version:
        raise RunError(
            f"this node has facescale {installed_version()}, the job was submitted with"
            f" {assignment.version}; install the same on both"
        )
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    store = _meet(rank, world_size, broadcast)
    dist.init_process_group(
        choose_backend(),
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    outcome = assignment.train(
        assignment.config,
        topology=Topology.of_default_group(),
        folder=assignment.folder,
        attempt=assignment.attempt,
    )
    dist.destroy_process_group()
    return outcome


def _meet(
    rank: int,
    world_size: int,
    broadcast: Callable[[tuple[str, int] | None], tuple[str, int]],
) -> "Store":
    """Rank 0's store, over a socket that it bound itself; a broadcast tells the others where."""
    import ray

    # documented as torch.distributed.TCPStore, but missing from its stubs' exports
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    if rank != 0:
        host, port = broadcast(None)
        return TCPStore(host, port, world_size, is_master=False)
    listener = socket.create_server((ray.util.get_node_ip_address(), 0))
    host, port = listener.getsockname()[:2]
    broadcast((host, port))
    return TCPStore(
        host,
        port,
        world_size,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
