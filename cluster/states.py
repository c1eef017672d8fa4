"""The state of a job, from what Ray says and what the run folder says; a pure function."""

from typing import Literal

from cluster.attempts import AttemptState
from cluster.client import RayStatus
from cluster.errors import Exit

JobState = Literal[
    "pending", "starting", "running", "stopping", "finished", "stopped", "failed", "lost"
]

ACTIVE: frozenset[JobState] = frozenset({"pending", "starting", "running", "stopping"})
"""Somebody works on it: the same name cannot be submitted again."""

EXIT_CODE: dict[JobState, Exit] = {
    "finished": Exit.OK,
    "stopped": Exit.STOPPED,
    "failed": Exit.FAILED,
    "lost": Exit.FAILED,
}
"""What `wait` exits with; the other states have not ended."""


def job_state(
    *,
    ray: RayStatus | None,
    driver_exit: int | None,
    last_attempt: AttemptState | None,
    stop_requested: bool,
) -> JobState:
    """What to tell a person.

    `ray` is None where the cluster is gone or has forgotten the job; then the run folder alone
    tells. A run whose driver vanished before it could write its end is `lost`: its checkpoints
    are good, and submitting it again continues it.
    """
    match ray:
        case "PENDING":
            return "pending"
        case "RUNNING" if stop_requested:
            return "stopping"
        case "RUNNING":
            return "running" if last_attempt == "running" else "starting"
        case "SUCCEEDED":
            return "finished"
        case "STOPPED":
            return "stopped"
        case "FAILED" if driver_exit == Exit.STOPPED:
            return "stopped"
        case "FAILED" if last_attempt != "running":
            return "failed"
    match last_attempt:
        case "finished" | "stopped" | "failed":
            return last_attempt
    return "lost"
