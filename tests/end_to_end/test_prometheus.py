"""A real Prometheus scrapes a run folder through the exporter, with the deployed configuration."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.exporter import NodeExporter
from tests.trainer.run_folders import publish, step_record
from trainer.series import TABLE

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS = "prometheus"
PATIENCE_S = 40.0  # two busy cores; it takes about 5 s on idle ones

RANK_1 = """
import sys
from pathlib import Path
from tests.trainer.run_folders import publish
publish(Path(sys.argv[1]), steps=3, rank=1, world_size=2)
print("ready", flush=True)
input()
"""


@dataclass(frozen=True)
class Prometheus:
    port: int

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert answer["status"] == "success"
        return answer["data"]["result"]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as a:
                return a.status == 200
        except (ConnectionError, urllib.error.URLError):
            return False


def eventually(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.2)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """The server with deploy/prometheus, only faster and looking at this test's folder."""
    assert shutil.which(PROMETHEUS), "this test needs Debian's package: apt-get install prometheus"
    source = REPOSITORY / "deploy" / "prometheus"
    config = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "1s"}
    config["rule_files"] = [str(source / "rules" / "*.yml")]
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert discovery["files"] == ["/runs/.targets/*.json"]
    discovery |= {"files": [str(tmp_path / "runs/.targets/*.json")], "refresh_interval": "1s"}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        server = Prometheus(port)
        eventually(server.ready, "Prometheus did not start; see its log in the test's folder")
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


class Training:
    """Takes steps of made-up training on rank 0 for as long as the test waits for something."""

    def __init__(self, folder: Path) -> None:
        self.metrics = publish(folder, steps=3, world_size=2)
        self.step = 3

    def until(self, condition: Callable[[], bool], message: Callable[[], str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, message()
            self.step += 1
            record = step_record(self.step, device_memory_bytes=1 << 20, time=time.time())
            self.metrics.step([record])
            time.sleep(0.3)


def dashboard_queries() -> list[str]:
    committed = REPOSITORY / "deploy/grafana/dashboards/facescale.json"
    panels = json.loads(committed.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def filled(query: str) -> str:
    """A dashboard query as Grafana sends it."""
    for variable, value in {"$run": "run-a", "$rank": ".*", "$__rate_interval": "10s"}.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


@pytest.mark.slow
def test_every_series_and_dashboard_query_answers_and_a_killed_rank_shows(
    tmp_path: Path, prometheus: Prometheus
):
    folder = tmp_path / "runs" / "run-a"
    training = Training(folder)
    rank_1 = subprocess.Popen(
        [sys.executable, "-c", RANK_1, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    exporter = NodeExporter(folder, bind="127.0.0.1", port=0)
    try:
        assert rank_1.stdout is not None
        rank_1.stdout.readline()
        training.until(
            lambda: len(prometheus.query("facescale_rank_up == 1")) == 2,
            lambda: "Prometheus sees no two living ranks",
        )

        (target,) = prometheus.get("/api/v1/targets")["data"]["activeTargets"]
        assert target["health"] == "up"
        assert target["scrapeUrl"] == f"http://{exporter.address()}/metrics"

        for series in TABLE:
            found = prometheus.query(series.full_name)
            assert found, series.full_name
            labels = set(found[0]["metric"]) - {"__name__", "instance", "job", "node"}
            assert labels == set(series.labels)
        # ranges of 10 s need two scrapes: go on training until each has an answer
        unanswered = {filled(query) for query in dashboard_queries()}
        assert len(unanswered) > 30

        def answered() -> bool:
            unanswered.difference_update({q for q in unanswered if has_number(prometheus.query(q))})
            return not unanswered

        training.until(answered, lambda: f"no answer to {sorted(unanswered)}")
        assert prometheus.query("facescale_target_cosine")[0]["value"][1] == "0.5"
        (share,) = prometheus.query(filled(share_of("data_wait")))
        # 0.125 s of each 1 s step; rates of one window have one denominator, so only rounding
        assert float(share["value"][1]) == pytest.approx(0.125, rel=1e-9)

        rank_1.kill()
        down = 'facescale_rank_up{rank="1"} == 0'
        training.until(
            lambda: len(prometheus.query(down)) == 1, lambda: "the death of rank 1 is not seen"
        )
        assert prometheus.query('facescale_rank_up{rank="0"}')[0]["value"][1] == "1"
        assert prometheus.get("/api/v1/rules")["data"]["groups"]
    finally:
        exporter.stop()
        rank_1.kill()
        rank_1.communicate()
    eventually(
        lambda: not prometheus.get("/api/v1/targets")["data"]["activeTargets"],
        "the target did not go with its job",
    )


def share_of(phase: str) -> str:
    (query,) = (q for q in dashboard_queries() if f'phase="{phase}"' in q and " by " not in q)
    return query


def has_number(result: list[dict[str, Any]]) -> bool:
    """Rank 1 takes no steps here, so shares of its step time are 0/0."""
    return any(sample["value"][1] not in ("NaN", "+Inf", "-Inf") for sample in result)
