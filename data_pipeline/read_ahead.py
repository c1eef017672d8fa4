"""Fetches the tars that training will soon read, so that it does not wait for the network.

A plan is known in advance, so the shards of later steps are, too. They are found by asking the
plan now and then for a micro-batch further on: one of each shard's length is enough to meet nearly
every shard of a window, whatever the order. A tar that was not foreseen, or could not be fetched,
is no error here: the reader fetches it itself and says what is wrong.
"""

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from data_pipeline.cache import Stopped
from data_pipeline.errors import DataError
from data_pipeline.index import Dataset
from data_pipeline.orders import Order
from data_pipeline.tar_files import TarFiles

FETCHES_AT_ONCE = 4  # one stream of object storage gives some 50 to 100 MB/s
CLOSE_TIMEOUT_S = 5.0  # they stop between two pieces; a hanging network is left behind

log = logging.getLogger(__name__)


@runtime_checkable  # by the shape checks of the tests
class Fetching(Protocol):
    """What this needs of `TarFiles`."""

    remote: bool

    def fetch(self, shard_index: int, *, stopping: Callable[[], bool]) -> None:
        """Have a tar here before it is asked for."""
        ...


class ReadAhead:
    """Keeps the tars of the next window of each lane on this machine; idle if all are local."""

    def __init__(
        self,
        dataset: Dataset,
        plan: Order,
        lanes: Sequence[int],
        *,
        start_step: int = 0,
        tars: Fetching | None = None,
    ) -> None:
        """Start fetching for the steps from `start_step` on, in threads of its own.

        If any tar is remote the plan is copied: plans keep what they computed last, and the reader
        is elsewhere in it.
        """
        self._tars = tars or TarFiles(dataset)
        self._plan = copy.deepcopy(plan) if self._tars.remote else plan
        self._lanes = tuple(lanes)
        self._first_sample = np.array([shard.first_sample for shard in dataset.shards])
        self._stride = max(1, dataset.num_samples // len(dataset.shards) // plan.micro_batch_size)
        self._reach = plan.shuffle_window * self._stride
        self._step = self._probe = start_step
        self._seen: dict[int, frozenset[int]] = {}  # shards of a lane's last probe
        self._wanted: deque[int] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name="facescale-read-ahead", daemon=True)
            for _ in range(FETCHES_AT_ONCE if self._tars.remote else 0)
        ]
        for thread in self._threads:
            thread.start()

    def reached(self, step: int) -> None:
        """Tell which step is read now; what lies before it is no longer fetched."""
        with self._changed:
            self._step = step
            self._probe = max(self._probe, step)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop fetching; what has come stays in the cache."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (shard := self._next()) is not None:
            try:
                self._tars.fetch(shard, stopping=lambda: self._closed)
            except Stopped:
                return
            except DataError as error:
                log.warning("not fetched ahead: %s", error)

    def _next(self) -> int | None:
        """The shard to fetch next, as soon as there is one; `None` at the end."""
        with self._changed:
            while not self._closed:
                if self._wanted:
                    return self._wanted.popleft()
                if self._probe <= self._step + self._reach:
                    self._look()
                else:
                    self._changed.wait()
            return None

    def _look(self) -> None:
        """Want the shards that each lane reads at the next probe and did not at the last one."""
        for lane in self._lanes:
            sample, _ = self._plan.micro_batch(self._probe, lane)
            shards = np.unique(np.searchsorted(self._first_sample, sample, side="right") - 1)
            seen, self._seen[lane] = self._seen.get(lane, frozenset()), frozenset(shards.tolist())
            self._wanted += sorted(self._seen[lane] - seen - set(self._wanted))
        self._probe += self._stride
