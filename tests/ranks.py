"""A pool of gloo ranks that outlives one test: milliseconds a call, one import of torch.

Draw in the parent, ship values, compare in the parent. What runs on the ranks must be a top-level
function of an importable module; it takes and returns values that pickle. Ranks check jaxtyping
shapes and turn warnings into errors, as the parent does; they never draw unseeded numbers.
"""

import contextlib
import multiprocessing as mp
import pickle
import queue
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
GRACE_S = 2.0
PROBE_TIMEOUT_S = 5.0
PRELOADED = ["torch", "torch.distributed", "jaxtyping", "beartype"]
CHECKED_PACKAGES = ("sharded_fc", "data_pipeline", "trainer")


class RankError(AssertionError):
    """A rank raised or hung; the message names the rank and holds its traceback."""


def _serve(rank: int, world_size: int, rendezvous: str, timeout_s: float, inbox, outbox) -> None:
    try:
        from jaxtyping import install_import_hook

        install_import_hook(CHECKED_PACKAGES, "beartype.beartype")
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=Path(rendezvous).as_uri(),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
    except BaseException:
        outbox.put((False, traceback.format_exc()))
        return
    outbox.put((True, pickle.dumps(None)))
    while (message := inbox.recv()) is not None:
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                fn, args = pickle.loads(message)
                # By value: torch's own pickler hands out shared memory that dies with the rank.
                outbox.put((True, pickle.dumps(fn(*args))))
        except BaseException:
            outbox.put((False, traceback.format_exc()))
    dist.destroy_process_group()


def _probe() -> int:
    import torch
    import torch.distributed as dist

    total = torch.ones(1, dtype=torch.int64)
    dist.all_reduce(total)
    return int(total)


class RankPool:
    """`world_size` processes in one gloo group; `run` calls a function on each."""

    def __init__(self, world_size: int, *, timeout_s: float = TIMEOUT_S) -> None:
        # A fork of a process that has imported torch and done nothing else: 10 ranks start in the
        # time of one import.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.world_size = world_size
        self.timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        rendezvous = str(Path(self._folder.name) / "rendezvous")
        self._inboxes = []
        self._outboxes = []
        self.processes: list[ForkServerProcess] = []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            outbox = context.Queue()
            process = context.Process(
                target=_serve,
                args=(rank, world_size, rendezvous, timeout_s, receiver, outbox),
                daemon=True,
                name=f"rank-{rank}-of-{world_size}",
            )
            process.start()
            receiver.close()
            self._inboxes.append(sender)
            self._outboxes.append(outbox)
            self.processes.append(process)
        self._collect(timeout_s)

    def run(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """Call `fn(*args)` on every rank; return what each returned, in rank order."""
        self._send(fn, args)
        try:
            return self._collect(self.timeout_s)
        except RankError:
            if self.alive:  # Every rank answered; do they still agree on the next collective?
                self._send(_probe, ())
                with contextlib.suppress(RankError):  # it killed the pool, which is the answer
                    self._collect(PROBE_TIMEOUT_S)
            raise

    def _send(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        message = pickle.dumps((fn, args))
        for inbox in self._inboxes:
            inbox.send(message)

    def _collect(self, timeout_s: float) -> list[Any]:
        deadline = time.monotonic() + timeout_s
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < self.world_size and time.monotonic() < deadline:
            for rank in set(range(self.world_size)) - set(answers):
                answer = self._poll(rank)
                if answer is None:
                    continue
                answers[rank] = answer
                if not answer[0]:
                    # Its peers may wait for it in a collective: a short grace, then no more.
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        silent = sorted(set(range(self.world_size)) - set(answers))
        failures = [(rank, text) for rank, (ok, text) in sorted(answers.items()) if not ok]
        if silent or any(not process.is_alive() for process in self.processes):
            self.close(kill=True)
        failures += [(rank, f"no answer: {timeout_s} s passed or a peer failed") for rank in silent]
        if failures:
            raise RankError("\n".join(f"[rank {rank}] {text}" for rank, text in failures))
        return [pickle.loads(answers[rank][1]) for rank in range(self.world_size)]

    def _poll(self, rank: int) -> tuple[bool, Any] | None:
        try:
            return self._outboxes[rank].get(timeout=0.05)
        except queue.Empty:
            if self.processes[rank].is_alive() or not self._outboxes[rank].empty():
                return None
            return False, f"died, exit code {self.processes[rank].exitcode}"

    @property
    def alive(self) -> bool:
        """Whether every process still serves."""
        return all(process.is_alive() for process in self.processes)

    def close(self, *, kill: bool = False) -> None:
        """End the processes: by asking, or by SIGKILL where one hangs."""
        for inbox, process in zip(self._inboxes, self.processes, strict=True):
            if kill:
                process.kill()
            elif process.is_alive():
                inbox.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
        for inbox, outbox in zip(self._inboxes, self._outboxes, strict=True):
            inbox.close()
            outbox.close()
            outbox.join_thread()
        self._folder.cleanup()


class RankPools:
    """One pool a world size, started when first asked for, replaced after a failure."""

    def __init__(self) -> None:
        self._pools: dict[int, RankPool] = {}

    def __call__(self, world_size: int) -> RankPool:
        """A live pool of `world_size` ranks."""
        pool = self._pools.get(world_size)
        if pool is None or not pool.alive:
            if pool is not None:
                self._pools.pop(world_size).close(kill=True)
            pool = self._pools[world_size] = RankPool(world_size)
        return pool

    def close(self) -> None:
        """End every pool."""
        for pool in self._pools.values():
            if pool.alive:
                pool.close()
        self._pools.clear()
