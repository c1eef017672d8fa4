"""The job's memory in the run folder: its attempts, how far it came, where it was submitted.

attempts.jsonl has a line for each start of the worker group, the one in progress too;
job.json says which submission on which cluster is the run's current one.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from trainer.run_folder import write_atomically

AttemptState = Literal["running", "finished", "stopped", "failed", "lost"]

TAIL_BYTES = 1 << 16
"""History lines are some 500 bytes: the last hundred tell how far the run came."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the worker group."""

    attempt: int
    start: float
    """Unix time."""
    end: float | None = None
    state: AttemptState = "running"
    """`lost` is one whose driver vanished, found by the next driver."""
    reason: str = ""
    """Why it ended and what follows, in words."""
    high_water_step: int = 0
    """The largest step any attempt so far had completed."""
    error: str = ""
    """First line of the first rank's error."""
    failed_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """Which job of which cluster works on this run."""

    submission_id: str
    series: int
    """Counts the submissions of this run."""
    address: str
    local: bool
    """Whether `address` is the local Ray that facescale started."""
    submitted: float
    version: str


def read_attempts(folder: Path) -> list[Attempt]:
    """All attempts, oldest first."""
    try:
        lines = (folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [Attempt(**json.loads(line)) for line in lines]


def write_attempts(folder: Path, attempts: Sequence[Attempt]) -> None:
    """Replace the file; it has as many lines as there were failures, so it stays small."""
    lines = (json.dumps(asdict(attempt)) for attempt in attempts)
    write_atomically(folder / "attempts.jsonl", "".join(f"{line}\n" for line in lines))


def close_attempt(folder: Path, *, reason: str, end: float) -> None:
    """Tell of an attempt in progress, whose driver was killed by us, that it was stopped."""
    attempts = read_attempts(folder)
    if attempts and attempts[-1].state == "running":
        attempts[-1] = replace(attempts[-1], state="stopped", reason=reason, end=end)
        write_attempts(folder, attempts)


def read_submission(folder: Path) -> Submission | None:
    """The run's current submission, if it ever had one."""
    try:
        return Submission(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_submission(folder: Path, submission: Submission) -> None:
    """Remember where the run was submitted."""
    write_atomically(folder / "job.json", json.dumps(asdict(submission), indent=1) + "\n")


def high_water_step(folder: Path) -> int:
    """The largest step that the run folder shows as completed; 0 where nothing was."""
    return max(_history_step(folder / "metrics" / "history.jsonl"), _saved_step(folder))


def _history_step(history: Path) -> int:
    try:
        with history.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return 0
    # neither a first line that the cut began inside nor a last one still being written counts
    whole = lines[1:-1] if size > TAIL_BYTES else lines[:-1]
    return max((json.loads(line)["step"] for line in whole), default=0)


def _saved_step(folder: Path) -> int:
    names = (path.name for path in (folder / "checkpoints").glob("step-*"))
    found = (re.fullmatch(r"step-(\d+)", name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)
