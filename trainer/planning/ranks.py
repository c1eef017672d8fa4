"""Runs a function on some ranks of this machine at once, as processes of their own."""

import multiprocessing as mp
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from trainer.errors import RunError
from trainer.topology import Topology, choose_backend

Work = Callable[..., Any]


def on_ranks(work: Work, *arguments: Any, ranks: int, threads: int) -> Any:
    """What `work(topology, *arguments)` returned on rank 0; a top-level function, run on each.

    Raises:
        RunError: it failed, or rank 0 was killed; each rank's own error is on stderr.
    """
    context = mp.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="facescale-") as meeting:
        processes = [
            context.Process(
                target=_rank,
                args=(work, arguments, rank, ranks, threads, meeting, sender if not rank else None),
                daemon=True,
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        sender.close()
        try:
            done, found = receiver.recv()
        except EOFError:
            done, found = False, "rank 0 was killed"
        finally:
            for process in processes:
                process.join(10)
                if process.is_alive():
                    process.kill()
                    process.join()
    if not done:
        raise RunError(f"{ranks} ranks of this machine could not be measured: {found}")
    return found


def _rank(
    work: Work,
    arguments: tuple[Any, ...],
    rank: int,
    ranks: int,
    threads: int,
    meeting: str,
    sender: Connection | None,
) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # else the interface of this machine's name
    torch.set_num_threads(threads)
    try:
        dist.init_process_group(
            choose_backend(), init_method=f"file://{meeting}/ranks", rank=rank, world_size=ranks
        )
        found = work(Topology.of_default_group(), *arguments)
        dist.destroy_process_group()
    except Exception as error:
        traceback.print_exc()
        if sender is not None:
            sender.send((False, " ".join(str(error).split()) or type(error).__name__))
        os._exit(1)  # not waiting for peers that hang in a collective
    if sender is not None:
        sender.send((True, found))
