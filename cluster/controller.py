"""The driver of a job: starts worker groups until the run is finished, stopped or beyond help.

Runs on the cluster as a Ray job (`python -m cluster.controller RUN_FOLDER`). Each attempt is one
Ray Train `fit()` without Ray's own retries; `cluster.policy` decides what follows. What it decides
is in the run folder: attempts.jsonl for programs, logs/driver.log for people.
"""

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from cluster import attempts, preflight, workers
from cluster.attempts import Attempt
from cluster.errors import ClusterError, Exit
from cluster.failures import Failure, RankFailed, first
from cluster.policy import Decision, Ended, Progress, decide
from trainer import config as run_file
from trainer.config import RunConfig
from trainer.run_folder import STOP_FILE

log = logging.getLogger("facescale.controller")

RAY_SETTINGS = {
    # Ray's default of 2 s is most of the time from a worker's death to the next attempt
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # its 60 s are too short for a first import of torch and DALI from a network disk
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # print() of a worker would come twice
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # the workers stay where they are, paths of the run are absolute
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Read by ray.train when it is imported, hence set before; what a user has set stands."""

EXIT_CODE = {"finished": Exit.OK, "stopped": Exit.STOPPED, "failed": Exit.FAILED}


@dataclass
class Job:
    """One driver's life: the attempts of a run from its submission to its end."""

    config: RunConfig
    folder: Path
    version: str
    fit: Callable[[workers.Assignment], workers.Outcome]
    """Runs one worker group to its end; raises `AttemptFailed`."""
    clock: Callable[[], float] = time.time
    attempts: list[Attempt] = field(default_factory=list)

    def run(self, train: workers.Train) -> Exit:
        """Attempt until the policy says that it is over."""
        self.attempts = [
            replace(a, state="lost", end=self.clock(), reason="its driver vanished")
            if a.state == "running"
            else a
            for a in attempts.read_attempts(self.folder)
        ]
        progress = Progress(high_water_step=self._high_water())
        while True:
            ended, failure = self._attempt(train)
            progress, decision = decide(
                progress, ended, limit=self.config.cluster.attempts_without_progress
            )
            self._record_end(decision, failure, progress.high_water_step)
            if decision.outcome != "restart":
                return EXIT_CODE[decision.outcome]

    def _attempt(self, train: workers.Train) -> tuple[Ended, Failure | None]:
        number = self.attempts[-1].attempt + 1 if self.attempts else 0
        self.attempts.append(
            Attempt(attempt=number, start=self.clock(), high_water_step=self._high_water())
        )
        attempts.write_attempts(self.folder, self.attempts)
        log.info("attempt %d: %d ranks", number, self.config.cluster.workers)
        assignment = workers.Assignment(
            config=self.config,
            folder=self.folder,
            attempt=number,
            train=train,
            version=self.version,
        )
        failure = None
        try:
            cause = self.fit(assignment)
        except AttemptFailed as error:
            failure = error.failure
            cause = failure.cause
        stop_requested = (self.folder / STOP_FILE).exists()
        return Ended(cause, self._high_water(), stop_requested), failure

    def _record_end(self, decision: Decision, failure: Failure | None, step: int) -> None:
        state = "failed" if decision.outcome == "restart" else decision.outcome
        self.attempts[-1] = replace(
            self.attempts[-1],
            end=self.clock(),
            state=state,
            reason=decision.reason,
            high_water_step=step,
            error=failure.error if failure else "",
            failed_rank=failure.rank if failure else None,
        )
        attempts.write_attempts(self.folder, self.attempts)
        number = self.attempts[-1].attempt
        if failure is not None:
            log.error("attempt %d: %s: %s", number, _who(failure), failure.error)
            if failure.details:
                log.error("%s", failure.details.rstrip())
        verb = "restarting" if decision.outcome == "restart" else decision.outcome
        log.info("attempt %d: %s: %s", number, verb, decision.reason)

    def _high_water(self) -> int:
        before = (a.high_water_step for a in self.attempts)
        return max(attempts.high_water_step(self.folder), *before, 0)


def _who(failure: Failure) -> str:
    return "the job" if failure.rank is None else f"rank {failure.rank}"


class AttemptFailed(Exception):
    """A worker group ended with a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


def fit_with_ray(assignment: workers.Assignment) -> workers.Outcome:
    """One Ray Train run of the worker group, under a fresh name and without Ray's retries.

    Raises:
        AttemptFailed: with the failure of the rank that was first.
    """
    import ray.train
    from ray.exceptions import RayError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from cluster.backend import SharedDevices

    cluster = assignment.config.cluster
    storage = Path(tempfile.mkdtemp(prefix="facescale-ray-train-"))  # Ray's notes; we read none
    trainer = DataParallelTrainer(
        workers.run_rank,
        train_loop_config={"assignment": assignment},
        backend_config=SharedDevices(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker={"CPU": cluster.cpus_per_worker}
            | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=f"{assignment.config.name}-{assignment.attempt}-{os.getpid()}",
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=0),
        ),
    )
    try:
        result = trainer.fit()
    except (ray.train.TrainingFailedError, RayError) as error:
        raise AttemptFailed(explain(error)) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    assert result.return_value in ("finished", "stopped"), result.return_value
    return result.return_value


def explain(error: Exception) -> Failure:
    """The failure behind what Ray Train raised."""
    from ray.train.v2._internal.exceptions import (
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
    )
    from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

    now = time.time()
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        return first([_of_rank(rank, e) for rank, e in error.worker_failures.items()])
    text = str(error).strip().splitlines()[-1]
    if isinstance(error, PreemptionError):
        return Failure(cause="preempted", rank=None, time=now, error=text)
    if isinstance(error, ControllerError):
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            return Failure(cause="no_room", rank=None, time=now, error=text)
        if isinstance(error.controller_failure, WorkerGroupStartupFailedError):
            return Failure(cause="killed", rank=None, time=now, error=text)
    return Failure(cause="error", rank=None, time=now, error=f"{type(error).__name__}: {text}")


def _of_rank(rank: int, error: Exception) -> Failure:
    if isinstance(error, RankFailed):
        return Failure(
            cause="refused" if error.refused else "error",
            rank=rank,
            time=error.time,
            error=error.summary,
            details="" if error.refused else error.details,
        )
    return Failure(
        cause="killed",
        rank=rank,
        time=float("inf"),
        error=f"the process of rank {rank} vanished (killed, out of memory, or its node was lost)",
        details=str(error),
    )


def main(argv: list[str], *, train: workers.Train = workers.train_installed) -> int:
    """Parse the fixed arguments that `cluster.submit` gave, and run the job to its end."""
    parser = argparse.ArgumentParser(prog="python -m cluster.controller")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", required=True)
    arguments = parser.parse_args(argv)
    folder: Path = arguments.folder
    if not (folder / "run.yaml").is_file():
        sys.stderr.write(f"this node does not see the run folder {folder}\n")
        return Exit.FAILED
    _log_to(folder / "logs" / "driver.log")
    config = run_file.load(folder / "run.yaml")
    job = Job(config=config, folder=folder, version=arguments.version, fit=fit_with_ray)
    try:
        return _run_on_ray(job, train)
    except ClusterError as error:
        _record_refusal(folder, str(error))
        log.error("%s", error)
        return Exit.FAILED


def _run_on_ray(job: Job, train: workers.Train) -> Exit:
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    from cluster import exporter
    from trainer import report

    ray.init(logging_level=logging.WARNING)
    with ThreadPoolExecutor(1) as beside, ExitStack() as at_end:
        at_end.callback(_write_report, job.folder, report.write)
        metrics = job.config.metrics
        started = beside.submit(  # ranks need not wait for them
            exporter.start_on_nodes, job.folder, bind=metrics.bind, port=metrics.port
        )
        at_end.callback(lambda: started.result().stop())
        preflight.check_nodes(job.config, job.folder, job.version)
        return job.run(train)


def _write_report(folder: Path, write: Callable[[Path], Path]) -> None:
    """Draw the report; a run does not fail for want of its picture."""
    try:
        write(folder)
    except Exception:
        log.exception("the run is as told above, but it has no report.html")


def _record_refusal(folder: Path, error: str) -> None:
    """A job that never came to an attempt has a line too: `status` tells from it."""
    before = attempts.read_attempts(folder)
    number = before[-1].attempt + 1 if before else 0
    now = time.time()
    line = Attempt(
        attempt=number,
        start=now,
        end=now,
        state="failed",
        reason="refused before the ranks started",
        high_water_step=attempts.high_water_step(folder),
        error=error,
    )
    attempts.write_attempts(folder, [*before, line])


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for handler in (logging.FileHandler(path), logging.StreamHandler(sys.stdout)):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
