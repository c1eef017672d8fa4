"""What follows an attempt's end: another attempt, or the end of the job. A pure function.

Restarts are bounded by progress, not by count: a job may lose a worker a hundred times as long as
each attempt comes further than all before; three in a row that do not, end it.
"""

from dataclasses import dataclass, replace
from typing import Literal

Cause = Literal["finished", "stopped", "killed", "error", "refused", "preempted", "no_room"]
"""Why an attempt ended.

finished, stopped: what the ranks returned. killed: a worker process vanished (SIGKILL, out of
memory, its node). error: a rank raised. refused: a rank raised an error that only the user can
mend. preempted: the node was taken back. no_room: the cluster could not place the workers.
"""

Outcome = Literal["restart", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Progress:
    """What the policy remembers between attempts."""

    high_water_step: int = 0
    without_progress: int = 0
    """Failed attempts in a row that came no further than `high_water_step`."""


@dataclass(frozen=True)
class Ended:
    """How an attempt ended."""

    cause: Cause
    step: int
    """The largest completed step in the run folder now."""
    stop_requested: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do, and why in words."""

    outcome: Outcome
    reason: str


def decide(progress: Progress, ended: Ended, *, limit: int) -> tuple[Progress, Decision]:
    """The new memory and the decision; `limit` is `cluster.attempts_without_progress`."""
    further = ended.step > progress.high_water_step
    progress = replace(progress, high_water_step=max(ended.step, progress.high_water_step))
    step = progress.high_water_step
    if ended.cause == "finished":
        return progress, Decision("finished", f"all steps done at step {step}")
    if ended.cause == "stopped":
        return progress, Decision("stopped", f"stopped at step {step} with a checkpoint")
    if ended.stop_requested:
        return progress, Decision("stopped", f"asked to stop while no attempt ran, at step {step}")
    if ended.cause == "refused":
        return progress, Decision("failed", "another attempt would fail in the same way")
    if ended.cause == "no_room":
        return progress, Decision("restart", "waiting for room on the cluster")
    if ended.cause == "preempted":
        return replace(progress, without_progress=0), Decision("restart", "the node was preempted")
    without = 0 if further else progress.without_progress + 1
    progress = replace(progress, without_progress=without)
    if without >= limit:
        return progress, Decision("failed", f"{without} attempts came no further than step {step}")
    if further:
        return progress, Decision("restart", f"the attempt had come to step {step}")
    return progress, Decision(
        "restart", f"failure {without} of {limit} allowed without progress past step {step}"
    )
