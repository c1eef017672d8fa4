"""One process a node that shows a run's numbers to Prometheus.

It reads the snapshots which the ranks of its node leave in the run folder, so a scrape never
touches a training process, and a rank that was killed shows as `facescale_rank_up 0` instead of
vanishing. It ends with the process that started it. Metrics need no password: listen beyond
loopback only where a firewall or NetworkPolicy says who may ask.

The address is written as a Prometheus file_sd target to `RUN/metrics/targets/<node>.json` and, for
a Prometheus that watches all runs, to `.targets/<run>.<node>.json` beside the run folder.
"""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cluster.connections import listen
from cluster.scrape_server import ScrapeServer
from trainer.config import RUN_NAME
from trainer.process import process_alive
from trainer.run_folder import write_atomically
from trainer.series import TABLE, Series
from trainer.snapshot import Snapshot, read_snapshots

DEFAULT_BIND = "127.0.0.1"

MIN_STALE_S = 60.0
"""A rank whose process cannot be seen is up while its snapshot is younger than this, or than five
of its own intervals."""

PARENT_POLL_S = 1.0
START_S = 30.0  # imports on a busy machine with a cold disk

_log = logging.getLogger(__name__)
_Sample = tuple[list[str], float]


class SnapshotCollector:
    """Turns the snapshots of a run folder into metric families at each scrape.

    Series of the whole run come from rank 0's node; `node=None` takes the ranks of all nodes.
    """

    def __init__(
        self, folder: Path, *, node: str | None, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._node = node
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The families that have samples now, in the table's order."""
        snapshots, unreadable = read_snapshots(self._folder)
        here = [s for s in snapshots if self._node is None or s.node == self._node]
        run = here[0].run if here else self._folder.name
        derived: dict[str, list[_Sample]] = {
            "rank_up": [([s.run, str(s.rank)], float(self._up(s))) for s in here],
            "snapshot_timestamp_seconds": [([s.run, str(s.rank)], s.time) for s in here],
            "snapshots_unreadable": [([run], float(unreadable))],
        }
        if not re.fullmatch(RUN_NAME, run):
            del derived["snapshots_unreadable"]
        for series in TABLE:
            samples = derived.get(series.name) or list(_published(series, here))
            if samples:
                kind = CounterMetricFamily if series.kind == "counter" else GaugeMetricFamily
                family = kind(series.full_name, series.help, labels=series.labels)
                for labels, value in samples:
                    family.add_metric(labels, value)
                yield family

    def _up(self, snapshot: Snapshot) -> bool:
        alive = process_alive(snapshot.process)
        if alive is not None:
            return alive
        return self._clock() - snapshot.time < max(MIN_STALE_S, 5 * snapshot.interval)


def _published(series: Series, snapshots: list[Snapshot]) -> Iterator[_Sample]:
    for snapshot in snapshots:
        rank = [str(snapshot.rank)] if series.per_rank else []
        for own, value in snapshot.samples(series):
            yield [snapshot.run, *rank, *own], value


def render(folder: Path, *, node: str | None) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(folder, node=node))
    return generate_latest(registry)


def target_files(folder: Path, *, node: str) -> list[Path]:
    """Where an exporter writes its address, first in the run folder."""
    folder = folder.resolve()
    name = re.sub(r"[^A-Za-z0-9.-]", "-", node)
    return [
        folder / "metrics" / "targets" / f"{name}.json",
        folder.parent / ".targets" / f"{folder.name}.{name}.json",
    ]


def serve(
    folder: Path,
    bind: str = DEFAULT_BIND,
    port: int = 0,
    advertise: str | None = None,
    parent: int | None = None,
) -> None:
    """Serve the numbers of a run folder's ranks on this node, until told to end.

    Args:
        folder: The run folder.
        bind: Address to listen on.
        port: Port to listen on; a busy one, or 0, means another free one.
        advertise: Address that Prometheus shall use; needed where `bind` is all addresses.
        parent: Process to end with; by default the one that started this.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s exporter: %(message)s")
    asyncio.run(_serve(folder.resolve(), bind, port, advertise, parent or os.getppid()))


async def _serve(folder: Path, bind: str, port: int, advertise: str | None, parent: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = socket.gethostname()
    listener = listen(bind, port)
    host = advertise or (socket.getfqdn() if bind in ("0.0.0.0", "::") else bind)
    address = f"{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    targets = target_files(folder, node=node)
    text = json.dumps([{"targets": [address], "labels": {"node": node}}]) + "\n"
    server = await ScrapeServer(lambda: render(folder, node=node)).serve(listener)
    try:
        for path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        _log.info("serving %s at http://%s/metrics", folder.name, address)
        while not stop.is_set() and os.getppid() == parent:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PARENT_POLL_S)
    finally:
        server.close()
        for path in targets:
            if path.exists() and path.read_text() == text:
                path.unlink()


class NodeExporter:
    """An exporter process on this node, a child of the process that makes this object."""

    def __init__(self, folder: Path, *, bind: str, port: int, advertise: str | None = None) -> None:
        self._target = target_files(folder, node=socket.gethostname())[0]
        self._target.unlink(missing_ok=True)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        arguments = [f"--folder={folder}", f"--bind={bind}", f"--port={port}"]
        arguments += [f"--parent={os.getpid()}"]
        arguments += [f"--advertise={advertise}"] if advertise else []
        with (folder / "logs" / f"exporter-{self._target.stem}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cluster.exporter", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def process_id(self) -> int:
        """The exporter's process, not the caller's."""
        return self._process.pid

    def address(self) -> str:
        """Host and port to scrape, once it listens.

        Raises:
            TimeoutError: it ended or did not start in time; its log says why.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._target.exists():
                return json.loads(self._target.read_text())[0]["targets"][0]
            time.sleep(0.05)
        raise TimeoutError(f"no exporter on {socket.gethostname()}; see the run folder's logs")

    def stop(self) -> None:
        """End the process and wait for its end."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ClusterExporters:
    """The exporters of a job, one a node."""

    def __init__(self, actors: dict[str, Any]) -> None:
        self._actors = actors

    def stop(self) -> None:
        """End them; those on nodes that are gone have ended already."""
        import ray
        from ray.exceptions import RayError

        for node, actor in self._actors.items():
            try:
                ray.get(actor.stop.remote(), timeout=10)
            except (RayError, TimeoutError) as error:
                _log.info("exporter on %s was gone: %s", node, type(error).__name__)
            ray.kill(actor)


def start_on_nodes(folder: Path, *, bind: str = DEFAULT_BIND, port: int = 0) -> ClusterExporters:
    """Start an exporter on every Ray node, outside the worker group so that it outlives it.

    A node where it cannot start is logged and goes without: a run does not fail for its metrics.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(num_cpus=0)(NodeExporter)
    everywhere = bind in ("0.0.0.0", "::")
    actors: dict[str, Any] = {}
    for node in ray.nodes():
        host = node["NodeManagerHostname"]  # several raylets of one host share one exporter
        if node["Alive"] and host not in actors:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            advertise = node["NodeManagerAddress"] if everywhere else None
            actors[host] = remote.options(scheduling_strategy=strategy).remote(
                folder, bind=bind, port=port, advertise=advertise
            )
    for host, actor in actors.items():
        try:
            address = ray.get(actor.address.remote(), timeout=2 * START_S)
            _log.info("metrics of %s: http://%s/metrics", host, address)
        except (RayError, TimeoutError) as error:
            _log.warning("no metrics from %s: %s", host, error)
    return ClusterExporters(actors)


if __name__ == "__main__":
    import tyro

    tyro.cli(serve)
