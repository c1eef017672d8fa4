"""How fast a machine is just now: one fixed product and one fixed copy, timed.

Machines that are shared change their speed from minute to minute. What was calibrated at one
reading of the yardstick and ran at another can be compared as if both had been at the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.planning.clock import Clock

ROWS, DIM, BATCH = 2048, 512, 256  # in the caches of one core
COPIED_ITEMS = 16 << 20  # 64 MiB, far more than any cache
TRIES, LEAST_S = 4, 0.025


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What each rank reached while all were at it."""

    operations_per_s: float
    """Of float32 products that stay in caches."""
    bytes_per_s: float
    """Read and written by a copy of far more than caches."""

    def drift(self, now: "Yardstick", *, moved_share: float) -> float:
        """What seconds at this reading have to be multiplied by to be seconds `now`.

        `moved_share` of them are spent on moving bytes, the rest on computing.
        """
        computing = self.operations_per_s / now.operations_per_s
        moving = self.bytes_per_s / now.bytes_per_s
        return (1.0 - moved_share) * computing + moved_share * moving


def measure_yardstick(clock: Clock) -> Yardstick:
    """A reading, the same on every rank; about a quarter of a second.

    The best of a few tries: what lasts for a moment is not the machine's speed.
    """

    def fastest(call: Callable[[], object]) -> float:
        return min(clock.seconds(call, least_s=LEAST_S) for _ in range(TRIES))

    rows, batch = (torch.ones(n, DIM, device=clock.device) for n in (ROWS, BATCH))
    product = torch.empty(ROWS, BATCH, device=clock.device)
    multiplied = fastest(lambda: torch.mm(rows, batch.t(), out=product))
    source, to = (torch.ones(COPIED_ITEMS, device=clock.device) for _ in range(2))
    copied = fastest(lambda: to.copy_(source))
    return Yardstick(
        operations_per_s=2.0 * ROWS * DIM * BATCH / multiplied,
        bytes_per_s=2.0 * source.nbytes / copied,
    )
