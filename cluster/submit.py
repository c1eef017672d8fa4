"""From a checked run to a job on a cluster: local if no address is given, else the one named."""

import hashlib
import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import attempts, local
from cluster.attempts import Submission
from cluster.client import Job, Jobs, token_of_environment
from cluster.errors import ClusterError
from cluster.states import ACTIVE, JobState, job_state
from cluster.workers import installed_version
from trainer import run_folder
from trainer.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class View:
    """What is known of a run: its folder's files and, where it answers, its cluster."""

    folder: Path
    submission: Submission | None
    job: Job | None
    attempts: list[attempts.Attempt]
    state: JobState | None
    """None for a run that was never submitted (`facescale train` made it)."""


def jobs_of(submission: Submission) -> Jobs | None:
    """The job server of a submission; None where its local Ray is gone."""
    if not submission.local:
        return Jobs(submission.address, token=token_of_environment())
    cluster = local.current()
    if cluster is None or cluster.address != submission.address or not cluster.healthy():
        return None
    return Jobs(cluster.address, token=local.read_token(cluster))


def view(folder: Path) -> View:
    """Look at a run.

    Raises:
        Unreachable: its cluster does not answer, or refuses the token.
    """
    submission = attempts.read_submission(folder)
    jobs = None if submission is None else jobs_of(submission)
    job = None if submission is None or jobs is None else jobs.get(submission.submission_id)
    tried = attempts.read_attempts(folder)
    state = None
    if submission is not None:
        state = job_state(
            ray=job.status if job else None,
            driver_exit=job.exit_code if job else None,
            last_attempt=tried[-1].state if tried else None,
            stop_requested=(folder / run_folder.STOP_FILE).exists(),
        )
    return View(folder=folder, submission=submission, job=job, attempts=tried, state=state)


def submit(config: RunConfig, *, address: str | None) -> Submission:
    """Write the run folder and start its job; a run that was stopped or failed continues.

    Raises:
        ClusterError: the name is being worked on, or the cluster is too small or out of reach.
        RunError: the run folder belongs to a run that computes something else.
    """
    address = address or config.cluster.address
    before = view(config.folder)
    if before.state in ACTIVE:
        assert before.submission is not None
        raise ClusterError(
            f"{config.name} is {before.state} already (job {before.submission.submission_id});"
            f" `facescale stop {config.name}` ends it, another name starts beside it"
        )
    jobs, is_local = connect(config, address)
    folder = run_folder.prepare(config)
    series = before.submission.series + 1 if before.submission else 1
    submission = Submission(
        submission_id=submission_id(config.name, folder, series),
        series=series,
        address=jobs.address,
        local=is_local,
        submitted=time.time(),
        version=installed_version(),
    )
    jobs.submit(
        entrypoint(folder, submission.version, is_local=is_local),
        submission_id=submission.submission_id,
        metadata={"facescale_run": config.name, "facescale_folder": str(folder)},
    )
    attempts.write_submission(folder, submission)
    return submission


def connect(config: RunConfig, address: str | None) -> tuple[Jobs, bool]:
    """The job server for a run, and whether it is the local Ray (which is started if need be)."""
    if address is not None:
        jobs = Jobs(address, token=token_of_environment())
        jobs.version()
        return jobs, False
    wanted = config.cluster
    cluster = local.up(
        cpus=math.ceil(wanted.workers * wanted.cpus_per_worker),
        gpus=wanted.workers * wanted.gpus_per_worker,
    )
    return Jobs(cluster.address, token=local.read_token(cluster)), True


def submission_id(name: str, folder: Path, series: int) -> str:
    """The same for the same try at the same run: Ray refuses the second of two submits at once.

    Two people's runs of one name in different folders differ by the folder's digest.
    """
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:6]
    return f"{name}-{digest}-{series}"


def entrypoint(folder: Path, version: str, *, is_local: bool) -> str:
    """The fixed command of every job; nothing of the run but its folder is in it.

    `-P` keeps the directory it happens to start in off the module path. On another cluster our
    Python may have no such path; then its own `python3` is meant.
    """
    ours = shlex.quote(sys.executable)
    python = ours if is_local else f'"$(command -v {ours} || command -v python3)"'
    return (
        f"{python} -P -m cluster.controller {shlex.quote(str(folder))}"
        f" --version {shlex.quote(version)}"
    )
