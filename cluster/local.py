"""A Ray cluster of this machine alone: starts it on first use, reuses it, ends it without a trace.

It listens on loopback only and every request needs its token. Its state (pids with start times,
ports, where the token is) is one file in a folder that only its owner can enter.
"""

import fcntl
import json
import logging
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster import client, keeper, processes, sockets
from cluster.errors import ClusterError

log = logging.getLogger("facescale.cluster")

STARTS = 3
"""Ray gives its own raylet 30 s (fixed, ray/_private/node.py), too few for a loaded machine; and a
port that was free may be taken a moment later."""

START_TIMEOUT_S = 90.0
"""`ray start` takes 4 to 7 s on two idle cores; a busy machine may take many times that."""

STOP_GRACE_S = 8.0
"""What the keeper gets to end all of Ray before it is ended itself."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Near Ray's minimum of 75 MB: training sends nothing through the object store."""

NAMED_PORTS = (
    "gcs",
    "node_manager",
    "object_manager",
    "runtime_env_agent",
    "agent_grpc",
    "agent_http",
    "metrics_export",
    "dashboard",
    "client_server",
    "autoscaler_metrics",
    "dashboard_metrics",
)


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """What the state file keeps of a running local Ray."""

    keeper: processes.Process
    daemons: tuple[processes.Process, ...]
    """Ray's daemons, the keeper's children; all else descends from them."""
    ports: dict[str, int]
    token_path: str
    session: str
    """Ray's own temporary folder; its socket paths must be short, so it is not in the state."""
    cpus: int
    gpus: int
    started: float
    """Unix time."""

    @property
    def address(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self.ports['dashboard']}"

    def running(self) -> list[processes.Process]:
        """All its processes that live, the keeper first; also when the keeper was killed."""
        return processes.with_descendants([self.keeper, *self.daemons])

    def healthy(self) -> bool:
        """Whether all daemons live and the job server answers to our token."""
        if not self.keeper.alive() or not all(p.alive() for p in self.daemons):
            return False
        try:
            client.Jobs(self.address, token=read_token(self)).version()
        except ClusterError:
            return False
        return True


def state_folder() -> Path:
    """Where the state and the token are kept (0700): FACESCALE_STATE, or the XDG place for it."""
    named = os.environ.get("FACESCALE_STATE")
    if named:
        folder = Path(named)
    else:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        folder = Path(home) / "facescale"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def read_token(cluster: LocalCluster) -> str:
    """The secret that goes with every request."""
    try:
        return Path(cluster.token_path).read_text(encoding="ascii")
    except OSError as error:
        raise ClusterError(
            f"{cluster.token_path}: {error.strerror}; `facescale cluster down`, then `up`, makes a"
            " new one"
        ) from None


def current() -> LocalCluster | None:
    """The recorded local Ray, whether or not it is well."""
    try:
        tree = json.loads(_state_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return LocalCluster(
        **{
            **tree,
            "keeper": processes.Process(**tree["keeper"]),
            "daemons": tuple(processes.Process(**p) for p in tree["daemons"]),
        }
    )


def up(*, cpus: int, gpus: int = 0) -> LocalCluster:
    """A healthy local Ray with at least these resources: the recorded one, or a new one.

    Raises:
        ClusterError: there is one, but a smaller one; or Ray did not start.
    """
    with _only_one():
        found = current()
        if found is not None and found.healthy():
            if found.cpus < cpus or found.gpus < gpus:
                raise ClusterError(
                    f"the local Ray has {found.cpus} CPUs and {found.gpus} GPUs, the run asks for"
                    f" {cpus} and {gpus}; end it with `facescale cluster down` and submit again"
                )
            return found
        if found is not None:
            _end(found)
        return _start_patiently(cpus=max(cpus, os.cpu_count() or 1), gpus=gpus)


def down() -> list[processes.Process]:
    """End the recorded local Ray and all its descendants; returns the processes that ran."""
    with _only_one():
        found = current()
        return [] if found is None else _end(found)


def environment(ports: dict[str, int], token_path: Path) -> dict[str, str]:
    """The variables that keep a local Ray on loopback, quiet and behind its token.

    Without RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 Ray turns 127.0.0.1 into the host's address
    (ray/_private/services.py, resolve_ip_for_localhost). The two metrics servers have no flag,
    only these variables (ray/autoscaler/_private/constants.py, ray/dashboard/consts.py). Gloo
    listens on the interface it is given. Ray would run workers at nice 15, and watch for a cloud to
    take this machine back.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return inherited | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "RAY_worker_niceness": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


def command(
    ports: dict[str, int], workers: range, *, cpus: int, gpus: int, session: Path
) -> list[str]:
    """The `ray start` line, with every port named."""
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head"),
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--port={ports['gcs']}",
        f"--node-manager-port={ports['node_manager']}",
        f"--object-manager-port={ports['object_manager']}",
        f"--runtime-env-agent-port={ports['runtime_env_agent']}",
        f"--dashboard-agent-grpc-port={ports['agent_grpc']}",
        f"--dashboard-agent-listen-port={ports['agent_http']}",
        f"--metrics-export-port={ports['metrics_export']}",
        f"--dashboard-port={ports['dashboard']}",
        f"--ray-client-server-port={ports['client_server']}",
        f"--min-worker-port={workers.start}",
        f"--max-worker-port={workers.stop - 1}",
        f"--num-cpus={cpus}",
        f"--num-gpus={gpus}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={session}",
        "--include-dashboard=true",
        "--disable-usage-stats",
    ]


def _start_patiently(*, cpus: int, gpus: int) -> LocalCluster:
    for _ in range(STARTS - 1):
        try:
            return _start(cpus=cpus, gpus=gpus)
        except ClusterError as error:
            log.warning("trying again: %s", error)
    return _start(cpus=cpus, gpus=gpus)


def _start(*, cpus: int, gpus: int) -> LocalCluster:
    # a CPU may have two workers (one starting), a job two helpers, a node its exporter
    num_worker_ports = 3 * cpus + 40
    block = sockets.free_block(len(NAMED_PORTS) + num_worker_ports, random.SystemRandom())
    ports: dict[str, int] = dict(zip(NAMED_PORTS, block, strict=False))
    token_path = state_folder() / f"token-{block.start}"
    _write_private(token_path, secrets.token_hex(32))
    session = Path(tempfile.mkdtemp(prefix="facescale-", dir="/tmp"))
    output_path = state_folder() / "ray-start.log"
    with output_path.open("wb") as output:
        subprocess.run(
            [
                *(sys.executable, "-P", "-m", "cluster.keeper"),
                *command(ports, block[len(NAMED_PORTS) :], cpus=cpus, gpus=gpus, session=session),
            ],
            env=environment(ports, token_path),
            cwd=session,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
    parent = processes.find(int(output_path.read_text(encoding="utf-8").split()[0]))
    if parent is None:
        raise ClusterError(
            f"a local Ray did not start: {_last_words(output_path)} (see {output_path})"
        )
    cluster = LocalCluster(
        keeper=parent,
        daemons=(),
        ports=ports,
        token_path=str(token_path),
        session=str(session),
        cpus=cpus,
        gpus=gpus,
        started=time.time(),
    )
    _save(cluster)  # before the wait: an interrupted start can still be ended by `down`
    try:
        _wait_started(parent, output_path)
        cluster = replace(cluster, daemons=tuple(processes.children(parent)))
        _save(cluster)
        _wait_healthy(cluster, output_path)
    except BaseException:
        _end(cluster)
        raise
    return cluster


def _wait_started(parent: processes.Process, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while keeper.STARTED not in output.read_text(encoding="utf-8", errors="replace").splitlines():
        if not parent.alive() or time.monotonic() > deadline:
            raise ClusterError(f"a local Ray did not start: {_last_words(output)} (see {output})")
        time.sleep(0.05)


def _wait_healthy(cluster: LocalCluster, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not cluster.healthy():
        if not cluster.keeper.alive() or time.monotonic() > deadline:
            raise ClusterError(
                f"the local Ray does not answer: {_last_words(output)} (see {output})"
            )
        time.sleep(0.1)


def _last_words(output: Path) -> str:
    lines = output.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _end(cluster: LocalCluster) -> list[processes.Process]:
    """The keeper ends its tree in order; what it left, or all if it is gone, is ended here."""
    running = cluster.running()
    processes.send(cluster.keeper, signal.SIGTERM)
    deadline = time.monotonic() + STOP_GRACE_S
    while cluster.keeper.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [p for p in running if p.alive()]
    processes.end([*cluster.running(), *left], grace_s=1.0)
    shutil.rmtree(cluster.session, ignore_errors=True)
    Path(cluster.token_path).unlink(missing_ok=True)
    _state_file().unlink(missing_ok=True)
    return running


def _state_file() -> Path:
    return state_folder() / "local.json"


def _save(cluster: LocalCluster) -> None:
    _write_private(_state_file(), json.dumps(asdict(cluster), indent=1))


def _write_private(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


@contextmanager
def _only_one() -> Iterator[None]:
    """Two commands at once must not start two clusters."""
    with (state_folder() / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
