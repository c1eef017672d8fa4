"""Measurements repeated in rounds, so that no number is that of one moment.

A round measures everything once. On a machine that others share one round may fall into a slow
minute, and a second of noise into any of them. The medians over rounds are what is kept: minima
promise what a machine rarely does.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping

from trainer.planning.clock import Clock

Numbers = Mapping[Hashable, float]
"""What a round found, by what it is of: seconds, or a rate."""


def repeated(
    measure: Callable[[], Numbers], clock: Clock, *, least: int, seconds: float
) -> dict[Hashable, float]:
    """The medians of `least` rounds, or of as many as begin within `seconds`.

    Every rank makes as many.
    """
    began, rounds = time.perf_counter(), list[Numbers]()
    while len(rounds) < least or clock.slowest(time.perf_counter() - began) < seconds:
        rounds.append(measure())
    return {of: statistics.median(each[of] for each in rounds) for of in rounds[0]}
