"""Times work that all ranks of a group do at once, and says what the slowest took."""

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

MOST_CALLS = 200


class Clock:
    """The stopwatch of this rank among `group`; every rank makes the same calls."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self.group = group
        self.device = device

    @property
    def ranks(self) -> int:
        """How many ranks work at once."""
        return self.group.size()

    def seconds(
        self, call: Callable[[], object], *, least_s: float, least_calls: int = 3, warm: int = 1
    ) -> float:
        """The median of calls that take `least_s` together, of the slowest rank.

        `warm` calls come first and one more to choose how many; they are not counted.
        """
        for _ in range(warm):
            call()
        first = self.slowest(self._once(call))
        calls = min(MOST_CALLS, max(least_calls, round(least_s / max(first, 1e-7))))
        return self.slowest(statistics.median(self._once(call) for _ in range(calls)))

    def slowest(self, seconds: float) -> float:
        """The largest of all ranks' numbers."""
        number = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        if self.ranks > 1:
            dist.all_reduce(number, dist.ReduceOp.MAX, group=self.group)
        return float(number)

    def _once(self, call: Callable[[], object]) -> float:
        self._wait()
        began = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
