import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.exporter import NodeExporter, SnapshotCollector, render, target_files
from cluster.scrape_server import LIMITS
from tests.trainer.run_folders import publish, step_record
from trainer.metrics import Metrics
from trainer.series import BY_NAME, TABLE
from trainer.snapshot import snapshot_path

NODE = socket.gethostname()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "run-a"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def exporter(run_folder: Path) -> Iterator[NodeExporter]:
    started = NodeExporter(run_folder, bind="127.0.0.1", port=0)
    try:
        yield started
    finally:
        started.stop()


def scrape(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return samples(answer.read())


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=2 * LIMITS.read_s)


def ask(address: str, request: bytes) -> bytes:
    with connect(address) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


def eventually(condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_every_series_of_the_table_is_exported_with_its_labels(run_folder: Path):
    publish(run_folder, steps=3).step([step_record(4, device_memory_bytes=1024)])
    families = {
        family.name: family for family in SnapshotCollector(run_folder, node=NODE).collect()
    }
    for series in TABLE:
        family = families[series.full_name.removesuffix("_total")]
        assert family.type == series.kind
        assert family.documentation == series.help
        assert all(set(sample.labels) == set(series.labels) for sample in family.samples)
    assert len(families) == len(TABLE)


def test_promtool_finds_nothing_to_complain_about(run_folder: Path):
    publish(run_folder, steps=3)
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=render(run_folder, node=NODE),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_a_node_shows_its_own_ranks_only(run_folder: Path):
    publish(run_folder, steps=1, rank=0, world_size=2)
    publish(run_folder, steps=1, rank=1, world_size=2)
    path = snapshot_path(run_folder, rank=0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"node": "elsewhere"}))
    shown = samples(render(run_folder, node=NODE))
    assert ("facescale_step", (("rank", "1"), ("run", "run-a"))) in shown
    assert ("facescale_step", (("rank", "0"), ("run", "run-a"))) not in shown
    assert ("facescale_loss", (("run", "run-a"),)) not in shown, "rank 0's to publish"


@pytest.mark.parametrize(
    ("age_s", "interval_s", "up"), [(10, 1, 1), (100, 1, 0), (100, 30, 1), (200, 30, 0)]
)
def test_a_process_that_cannot_be_seen_is_judged_by_its_snapshots_age(
    run_folder: Path, age_s: int, interval_s: int, up: int
):
    publish(run_folder, steps=1)
    path = snapshot_path(run_folder, rank=0)
    elsewhere = {"process": "another-boot pid:[1] pid 7 7", "time": 1000.0, "interval": interval_s}
    path.write_text(json.dumps(json.loads(path.read_text()) | elsewhere))
    collector = SnapshotCollector(run_folder, node=NODE, clock=lambda: 1000.0 + age_s)
    (value,) = (
        sample.value
        for family in collector.collect()
        if family.name == "facescale_rank_up"
        for sample in family.samples
    )
    assert value == up


def test_a_hostile_snapshot_is_counted_and_the_others_are_still_served(run_folder: Path):
    publish(run_folder, steps=1, world_size=3)
    path = snapshot_path(run_folder, rank=1)
    good = json.loads(snapshot_path(run_folder, rank=0).read_text())
    evil = {"rank": 1, "run": 'a"}\nevil 1', "values": {'x"} 1\nevil': 1}}
    path.write_text(json.dumps(good | evil))
    snapshot_path(run_folder, rank=2).mkdir()
    text = render(run_folder, node=NODE)
    assert b"evil" not in text
    shown = samples(text)
    assert shown["facescale_snapshots_unreadable", (("run", "run-a"),)] == 2
    assert shown["facescale_loss", (("run", "run-a"),)] == 10.0


def test_it_serves_and_tells_prometheus_where(run_folder: Path, exporter: NodeExporter):
    publish(run_folder, steps=3)
    address = exporter.address()
    assert address.startswith("127.0.0.1:")
    assert scrape(address)["facescale_samples_total", (("run", "run-a"),)] == 3 * 64
    for path in target_files(run_folder, node=NODE):
        assert json.loads(path.read_text()) == [{"targets": [address], "labels": {"node": NODE}}]


def test_it_answers_nothing_but_reading_two_pages(exporter: NodeExporter):
    address = exporter.address()
    head = ask(address, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")
    assert ask(address, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")
    for request, status in {
        b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc": b"405",
        b"GET / HTTP/1.1\r\n\r\n": b"404",
        b"GET /../../etc/passwd HTTP/1.1\r\n\r\n": b"404",
        b"GET /metrics\r\n\r\n": b"400",
        b"\x16\x03\x01\r\n\r\n": b"400",
        b"GET /metrics HTTP/1.1\r\nx: " + b"a" * 2 * LIMITS.request_bytes: b"431",
    }.items():
        assert ask(address, request).split(b" ")[1] == status, request[:40]


def test_300_half_open_sockets_keep_no_scrape_out(run_folder: Path, exporter: NodeExporter):
    publish(run_folder, steps=1)
    address = exporter.address()
    held = [connect(address) for _ in range(300)]
    try:
        for client in held[::2]:
            client.sendall(b"GET /metrics HTT")
        begin = time.monotonic()
        assert scrape(address)["facescale_step", (("rank", "0"), ("run", "run-a"))] == 1
        # far below the timeout: it did not wait until the silent ones were thrown out
        assert time.monotonic() - begin < LIMITS.read_s / 2
        status = Path(f"/proc/{exporter.process_id}/status").read_text()
        threads = int(status.partition("Threads:")[2].split()[0])
        assert threads <= 40, "one thread a connection would be 300"
        files = len(os.listdir(f"/proc/{exporter.process_id}/fd"))  # noqa: PTH208 - a count only
        assert files < LIMITS.connections + 20
        eventually(lambda: all(is_closed(client) for client in held), within_s=2 * LIMITS.read_s)
    finally:
        for client in held:
            client.close()


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_client_that_stops_in_mid_request_is_dropped(exporter: NodeExporter):
    address = exporter.address()
    with connect(address) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n" + b"x" * 100)
        begin = time.monotonic()
        assert client.recv(1) == b""
        assert LIMITS.read_s / 2 < time.monotonic() - begin < 2 * LIMITS.read_s


def test_a_busy_port_means_another_one_and_says_so(run_folder: Path):
    publish(run_folder, steps=1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        exporter = NodeExporter(run_folder, bind="127.0.0.1", port=busy)
        try:
            address = exporter.address()
            assert not address.endswith(f":{busy}")
            assert scrape(address)
        finally:
            exporter.stop()
    (log,) = (run_folder / "logs").glob("exporter-*.log")
    assert f"port {busy} is in use" in log.read_text()


def test_it_listens_on_loopback_unless_told(run_folder: Path, exporter: NodeExporter):
    port = int(exporter.address().rpartition(":")[2])
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [row.split()[1] for row in rows if row.split()[3] == "0A"]
    assert [local for local in listening if local.endswith(f":{port:04X}")] == [
        f"0100007F:{port:04X}"
    ]


RANK = """
import sys
from pathlib import Path
from trainer.metrics import Metrics
Metrics(Path(sys.argv[1]), run="run-a", rank=int(sys.argv[2]), world_size=2, attempt=1)
print("ready", flush=True)
input()
"""


def test_it_survives_a_killed_worker_group_and_reports_it(run_folder: Path, exporter: NodeExporter):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(run_folder), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        for process in ranks:
            assert process.stdout is not None
            process.stdout.readline()
        address = exporter.address()

        def up() -> list[float]:
            shown = scrape(address)
            return [
                shown["facescale_rank_up", (("rank", str(rank)), ("run", "run-a"))]
                for rank in range(2)
            ]

        assert up() == [1, 1]
        for process in ranks:
            process.kill()  # not waited for: a zombie is dead too
        eventually(lambda: up() == [0, 0])
    finally:
        for process in ranks:
            process.kill()
            process.communicate()


PARENT = """
import sys, time
from pathlib import Path
from cluster.exporter import NodeExporter
exporter = NodeExporter(Path(sys.argv[1]), bind="127.0.0.1", port=0)
print(exporter.process_id, exporter.address(), flush=True)
time.sleep(600)
"""


def test_it_ends_with_the_process_that_started_it_and_takes_its_address_back(run_folder: Path):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(run_folder)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        targets = target_files(run_folder, node=NODE)
        assert all(path.exists() for path in targets)
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not any(path.exists() for path in targets))
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_one_that_cannot_start_says_where_to_look(run_folder: Path):
    exporter = NodeExporter(run_folder, bind="192.0.2.1", port=0)  # RFC 5737: nobody's address
    try:
        with pytest.raises(TimeoutError, match="see the run folder's logs"):
            exporter.address()
    finally:
        exporter.stop()


def test_no_series_has_a_label_that_grows_with_the_data():
    # the table's own check that no identity, file or error can become a label
    open_ended = {"set", "reason"}
    for series in TABLE:
        assert len(open_ended & set(series.labels)) <= 1
    assert BY_NAME["bad_samples_total"].own_labels == ("reason",)


def test_metrics_of_a_rank_that_moved_here_replace_the_old_ones(run_folder: Path):
    publish(run_folder, steps=5)
    Metrics(run_folder, run="run-a", rank=0, world_size=1, attempt=2).step([step_record(3)])
    shown = samples(render(run_folder, node=NODE))
    assert shown["facescale_attempt", (("run", "run-a"),)] == 2
    assert shown["facescale_step", (("rank", "0"), ("run", "run-a"))] == 3
