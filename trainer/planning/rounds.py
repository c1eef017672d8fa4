"""Measurements repeated in rounds, so that no number is that of one moment.

A round measures everything once, by medians of calls. On a machine that others share one round may
fall into a slow half-minute, and a second of noise into any of them. The shortest round of each
number is what is kept: short calls suffer more from others than the long steps that they are to
predict, so that medians over rounds promise too little on all but quiet machines.
"""

import time
from collections.abc import Callable, Hashable, Mapping

from trainer.planning.clock import Clock

Numbers = Mapping[Hashable, float]
"""Seconds that a round found, by what they are of."""


def repeated(
    measure: Callable[[], Numbers], clock: Clock, *, least: int, seconds: float
) -> dict[Hashable, float]:
    """The shortest of `least` rounds, or of as many as begin within `seconds`.

    Every rank makes as many.
    """
    began, rounds = time.perf_counter(), list[Numbers]()
    while len(rounds) < least or clock.slowest(time.perf_counter() - began) < seconds:
        rounds.append(measure())
    return {of: min(each[of] for each in rounds) for of in rounds[0]}
