"""`facescale train`: the ranks of a run as processes of this machine, without a cluster.

Ranks meet through a file, so no port is opened for the rendezvous. A rank that fails takes the
others down, and its own error is the one that is told.
"""

import multiprocessing as mp
import os
import signal
import tempfile
import traceback
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch.distributed as dist

from trainer import run_folder
from trainer.config import RunConfig
from trainer.errors import RunError

Outcome = Literal["finished", "stopped"]

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""Longer than any evaluation or checkpoint that one rank waits for."""

FAILURES = ("refused", "killed", "error")
"""How a rank can fail; the earlier ones cause the later on other ranks, by a broken connection."""

ECHO_S = 3.0
"""How long the ranks are heard after the first failure."""


def run_local(config: RunConfig, folder: Path) -> Outcome:
    """Train with `cluster.workers` ranks on this machine; blocks until all have ended.

    Raises:
        RunError: a rank failed; the message is that rank's own.
    """
    context = mp.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="facescale-") as meeting:
        pipes = [context.Pipe(duplex=False) for _ in range(config.cluster.workers)]
        ranks = [
            context.Process(target=_rank, args=(rank, config, folder, meeting, sender))
            for rank, (_, sender) in enumerate(pipes)
        ]
        for rank in ranks:
            rank.start()
        for _, sender in pipes:
            sender.close()
        with _StopOnSignal(folder):
            try:
                return _collect([receiver for receiver, _ in pipes])
            finally:
                for rank in ranks:
                    rank.join(10)
                    if rank.is_alive():
                        rank.kill()
                        rank.join()


def _collect(receivers: Sequence[Any]) -> Outcome:
    """The ranks' common outcome, or the error that was there before its echoes on other ranks."""
    waiting = {receiver: rank for rank, receiver in enumerate(receivers)}
    outcomes: list[Outcome] = []
    failures: list[tuple[int, str]] = []
    while waiting and (ready := wait(list(waiting), timeout=ECHO_S if failures else None)):
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting.pop(receiver)
            try:
                kind, text = receiver.recv()
            except EOFError:
                kind, text = "killed", "was killed; start the run again, it continues"
            if kind in FAILURES:
                failures.append((FAILURES.index(kind), f"rank {rank}: {text}"))
            else:
                outcomes.append(kind)
    if failures:
        raise RunError(min(failures)[1])
    return "stopped" if "stopped" in outcomes else "finished"


def _rank(rank: int, config: RunConfig, folder: Path, meeting: str, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent asks for a checkpoint instead
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # else the interface of this machine's name
    try:
        sender.send((_train(rank, config, folder, meeting), ""))
    except ValueError as error:  # the user's to mend: one line is enough
        sender.send(("refused", str(error)))
        os._exit(1)  # not waiting for peers that hang in a collective
    except BaseException:
        sender.send(("error", traceback.format_exc()))
        os._exit(1)


def _train(rank: int, config: RunConfig, folder: Path, meeting: str) -> Outcome:
    from trainer.loop import run_worker
    from trainer.topology import Topology, choose_backend

    dist.init_process_group(
        choose_backend(),
        init_method=f"file://{meeting}/ranks",
        rank=rank,
        world_size=config.cluster.workers,
        timeout=COLLECTIVE_TIMEOUT,
    )
    outcome = run_worker(config, topology=Topology.of_default_group(), folder=folder, attempt=0)
    dist.destroy_process_group()
    return outcome


class _StopOnSignal:
    """While active, an interrupt asks every rank to save and stop; a second one is fatal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if (self.folder / run_folder.STOP_FILE).exists():
            raise KeyboardInterrupt
        (self.folder / run_folder.STOP_FILE).touch()

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
