"""Which rank failed first: the one whose error is told, not its peers' echoes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.policy import Cause


class RankFailed(Exception):
    """What a rank's training function raised, in plain values so that it travels anywhere."""

    def __init__(self, rank: int, time: float, summary: str, refused: bool, details: str) -> None:
        super().__init__(rank, time, summary, refused, details)
        self.rank = rank
        self.time = time
        self.summary = summary
        self.refused = refused
        self.details = details

    def __str__(self) -> str:
        return self.summary


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The end of one rank, or of the attempt where `rank` is None."""

    cause: Cause
    rank: int | None
    time: float
    """Unix time on the rank's node; infinite where the process could not tell."""
    error: str
    """One line."""
    details: str = ""
    """The traceback, where there is one."""


ORDER: dict[Cause, int] = {"preempted": 0, "refused": 1, "killed": 2, "error": 3}
"""A vanished process is the reason for its peers' errors, never the other way round."""


def first(failures: Sequence[Failure]) -> Failure:
    """The one that explains the others."""
    return min(failures, key=lambda f: (ORDER.get(f.cause, 9), f.time, f.rank or 0))
