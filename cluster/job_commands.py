"""`facescale submit, status, logs, stop, list, wait` and `cluster up, status, down`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro
from tyro.conf import Positional

from cluster.console import errors_in_one_line, show
from cluster.errors import ClusterError, Exit, Unreachable

if TYPE_CHECKING:
    from tqdm import tqdm

    from cluster.submit import View

POLL_S = 0.5
"""Between two looks at a job that is being waited for or followed."""

KILL_TIMEOUT_S = 30.0
"""Ray gives a driver 3 s between SIGTERM and SIGKILL; a busy head takes longer."""


@errors_in_one_line
def submit(
    run_file: Positional[Path],
    changes: Positional[tuple[str, ...]] = (),
    /,
    *,
    address: str | None = None,
    json: bool = False,
) -> int:
    """Start a run as a job on a cluster; the same name continues where it was.

    Without an address (here or in the run file) it runs on a Ray of this machine, which is started
    if need be and listens on loopback only.

    Args:
        run_file: the run, in YAML
        changes: one-off changes to it, such as steps=100 head.scale=32
        address: http://HOST:PORT of Ray's dashboard; its token is read from RAY_AUTH_TOKEN_PATH
        json: print the result as JSON
    """
    from cluster.submit import submit as start
    from trainer import config

    run = config.load(run_file, changes)
    submission = start(run, address=address)
    result = {
        "run": run.name,
        "submission_id": submission.submission_id,
        "address": submission.address,
        "local": submission.local,
        "folder": str(run.folder),
    }
    show(result, as_json=json)
    if not json:
        for verb in ("status", "logs -f", "wait", "stop"):
            sys.stdout.write(f"  facescale {verb} {run.folder}\n")
    return Exit.OK


@errors_in_one_line
def status(run: Positional[str], /, *, runs: Path = Path("runs"), json: bool = False) -> int:
    """Tell where a job is: state, step, attempts and, if it failed, the first rank's error.

    Args:
        run: its name, or its run folder
        runs: the folder of runs in which a name is looked up
        json: print the result as JSON
    """
    show(_summary(_view(run, runs)), as_json=json)
    return Exit.OK


@errors_in_one_line
def logs(
    run: Positional[str],
    /,
    *,
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False,
    rank: int | None = None,
    runs: Path = Path("runs"),
    json: bool = False,
) -> int:
    """Print what the driver and a rank wrote.

    Args:
        run: its name, or its run folder
        follow: go on until the job has ended
        rank: only this rank's log; unset is the driver's and rank 0's
        runs: the folder of runs in which a name is looked up
        json: print a JSON object a line, with the source and the text
    """
    from cluster import logs as reader
    from cluster.states import ACTIVE

    view = _view(run, runs)
    sources = reader.Sources(view.folder, rank=rank)
    driver_output = "" if sources.any() or rank is not None else _driver_output(view)
    for text in driver_output.splitlines():
        reader.write(reader.Line("ray", text), as_json=json)
    while True:
        active = follow and view.state in ACTIVE
        for line in sources.new_lines():
            reader.write(line, as_json=json)
        if not active:
            break
        time.sleep(POLL_S)
        view = _view(str(view.folder), runs)
    if not driver_output and not sources.any():
        what = "the driver" if rank is None else f"rank {rank}"
        raise ClusterError(f"{view.folder.name} has no log of {what}")
    return Exit.OK


@errors_in_one_line
def stop(
    run: Positional[str],
    /,
    *,
    now: bool = False,
    runs: Path = Path("runs"),
    json: bool = False,
) -> int:
    """Let a job save a checkpoint and end; submitting it again continues it.

    Args:
        run: its name, or its run folder
        now: kill it instead; what came after its last checkpoint is lost
        runs: the folder of runs in which a name is looked up
        json: print the result as JSON
    """
    from cluster.attempts import close_attempt
    from cluster.states import ACTIVE
    from cluster.submit import jobs_of
    from trainer.run_folder import STOP_FILE

    view = _view(run, runs)
    if view.submission is None or view.state not in ACTIVE:
        raise ClusterError(f"{view.folder.name} is not running: it is {view.state or 'not a job'}")
    if now:
        jobs = jobs_of(view.submission)
        assert jobs is not None, "an active job has a cluster"
        jobs.stop(view.submission.submission_id)
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while view.state in ACTIVE and time.monotonic() < deadline:
            time.sleep(POLL_S)
            view = _view(str(view.folder), runs)
        if view.state in ACTIVE:
            raise ClusterError(f"{view.folder.name} is still {view.state}; try again")
        close_attempt(view.folder, reason="killed by `facescale stop --now`", end=time.time())
    else:
        (view.folder / STOP_FILE).touch()
    show(_summary(_view(str(view.folder), runs)), as_json=json)
    return Exit.OK


@errors_in_one_line
def list_jobs(*, runs: Path = Path("runs"), json: bool = False) -> int:
    """List the runs of a folder and their states.

    Args:
        runs: the folder of runs
        json: print the result as JSON
    """
    rows = [_row(file.parent) for file in sorted(runs.resolve().glob("*/run.yaml"))]
    if json:
        show({"runs": rows}, as_json=True)
        return Exit.OK
    for row in rows:
        sys.stdout.write(
            f"{row['run']:<24} {row['state'] or '-':<12} step {row['step']:>9} of {row['steps']:<9}"
            f" {row['attempts']} attempts\n"
        )
    return Exit.OK


@errors_in_one_line
def wait(
    run: Positional[str],
    /,
    *,
    timeout: float | None = None,
    runs: Path = Path("runs"),
    json: bool = False,
) -> int:
    """Wait for a job's end; the exit code says which: 0 finished, 1 failed, 5 stopped.

    Args:
        run: its name, or its run folder
        timeout: seconds after which to give up with exit code 4; the job goes on
        runs: the folder of runs in which a name is looked up
        json: print the result as JSON
    """
    from cluster.states import ACTIVE, EXIT_CODE

    deadline = None if timeout is None else time.monotonic() + timeout
    view = _view(run, runs)
    if view.state is None:
        raise ClusterError(f"{view.folder.name} was never submitted")
    with _progress(view) as bar:
        while view.state in ACTIVE and (deadline is None or time.monotonic() < deadline):
            time.sleep(POLL_S)
            view = _view(str(view.folder), runs)
            _advance(bar, view)
    show(_summary(view), as_json=json)
    assert view.state is not None
    return EXIT_CODE.get(view.state, Exit.TIMEOUT)


@errors_in_one_line
def cluster_up(*, cpus: int = 1, gpus: int = 0, json: bool = False) -> int:
    """Start the local Ray, or find it running: loopback only, with a token of its own.

    Args:
        cpus: workers that it must have room for; at least this machine's cores
        gpus: GPUs that it may use
        json: print the result as JSON
    """
    from cluster import local

    show(_cluster(local.up(cpus=cpus, gpus=gpus)), as_json=json)
    return Exit.OK


@errors_in_one_line
def cluster_status(*, json: bool = False) -> int:
    """Tell whether the local Ray runs, where it listens, and which jobs it works on.

    Args:
        json: print the result as JSON
    """
    from cluster import local

    found = local.current()
    show({"state": "down"} if found is None else _cluster(found), as_json=json)
    return Exit.OK


@errors_in_one_line
def cluster_down(*, now: bool = False, json: bool = False) -> int:
    """End the local Ray: exactly the processes that were started, and their descendants.

    Args:
        now: also while it works on jobs; they continue when submitted again
        json: print the result as JSON
    """
    from cluster import local

    found = local.current()
    active = _active_jobs(found) if found is not None and found.healthy() else []
    if active and not now:
        raise ClusterError(
            f"the local Ray works on {', '.join(active)}; `facescale stop` them first, or end it"
            " with --now"
        )
    show({"state": "down", "ended_processes": len(local.down())}, as_json=json)
    return Exit.OK


def _progress(view: "View") -> "tqdm[NoReturn]":
    """A bar of the job's steps, on a terminal only."""
    from tqdm import tqdm

    from trainer.config import read_tree

    steps = read_tree(view.folder / "run.yaml").get("steps")
    bar = tqdm(desc=view.folder.name, total=steps, unit="step", disable=None, dynamic_ncols=True)
    _advance(bar, view)
    return bar


def _advance(bar: "tqdm[NoReturn]", view: "View") -> None:
    from cluster.attempts import high_water_step

    bar.set_postfix_str(str(view.state), refresh=False)
    bar.update(high_water_step(view.folder) - bar.n)


def _view(run: str, runs: Path) -> "View":
    from cluster import names
    from cluster.submit import view

    return view(names.run_folder(run, runs))


def _summary(view: "View") -> dict[str, Any]:
    from cluster.attempts import high_water_step
    from trainer.config import read_tree

    last = view.attempts[-1] if view.attempts else None
    before_attempts = view.job.message if view.job is not None and last is None else ""
    return {
        "run": view.folder.name,
        "state": view.state,
        "step": high_water_step(view.folder),
        "steps": read_tree(view.folder / "run.yaml").get("steps"),
        "attempts": len(view.attempts),
        "reason": last.reason if last else before_attempts,
        "error": last.error if last else "",
        "failed_rank": last.failed_rank if last else None,
        "submission_id": view.submission.submission_id if view.submission else None,
        "address": view.submission.address if view.submission else None,
        "folder": str(view.folder),
    }


def _row(folder: Path) -> dict[str, Any]:
    """A line of `list`; one cluster out of reach does not hide the other runs."""
    from cluster.attempts import high_water_step, read_attempts, read_submission
    from cluster.submit import view
    from trainer.config import read_tree

    submission = read_submission(folder)
    try:
        state = view(folder).state
    except Unreachable:
        state = "unreachable"
    return {
        "run": folder.name,
        "state": state,
        "step": high_water_step(folder),
        "steps": read_tree(folder / "run.yaml").get("steps"),
        "attempts": len(read_attempts(folder)),
        "submission_id": submission.submission_id if submission else None,
    }


def _driver_output(view: "View") -> str:
    """What Ray kept of a driver that did not come as far as its own log."""
    from cluster.submit import jobs_of

    jobs = None if view.submission is None else jobs_of(view.submission)
    if jobs is None or view.job is None:
        return ""
    return jobs.logs(view.job.submission_id)


def _cluster(cluster: Any) -> dict[str, Any]:
    from cluster import sockets

    running = cluster.running()
    healthy = cluster.healthy()
    exposed = [s for s in sockets.listeners(p.pid for p in running) if not s.loopback]
    return {
        "state": "up" if healthy else "broken",
        "address": cluster.address,
        "cpus": cluster.cpus,
        "gpus": cluster.gpus,
        "token_path": cluster.token_path,
        "processes": len(running),
        "listening_beyond_loopback": [f"{s.host}:{s.port}" for s in exposed],
        "jobs": _active_jobs(cluster) if healthy else [],
    }


def _active_jobs(cluster: Any) -> list[str]:
    from cluster import local
    from cluster.client import Jobs

    jobs = Jobs(cluster.address, token=local.read_token(cluster))
    return [j.submission_id for j in jobs.known() if j.status in ("PENDING", "RUNNING")]
