"""A local Ray, started once: jobs of two ranks that are killed, stopped, resumed and that fail."""

import json
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster import attempts, job_commands, local, processes, sockets, submit
from cluster.errors import ClusterError, Exit
from tests.cluster import driver
from trainer import config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 400.0
"""For what takes seconds on an idle machine; here others may be working."""


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACESCALE_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setattr(submit, "entrypoint", driver.entrypoint)
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        try:
            yield local.up(cpus=2)
        finally:
            local.down()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("work")
    (place / "data").mkdir()
    (place / "data" / "index.json").write_text("{}")
    return place


def run_of(place, name, *, steps):
    tree = {
        "name": name,
        "steps": steps,
        "data": {"path": str(place / "data")},
        "runs": str(place / "runs"),
        "cluster": {"workers": 2},
        "metrics": {"port": 0},
    }
    return config.from_tree(tree, source="test")


def until(condition, what):
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited for {what} in vain"
        time.sleep(0.05)
    return value


def steps(folder: Path):
    history = folder / "metrics" / "history.jsonl"
    return [json.loads(x) for x in history.read_text().splitlines()] if history.exists() else []


def wait(folder: Path):
    return job_commands.wait(str(folder), timeout=PATIENCE_S)


def everything(ray):
    return [process.pid for process in ray.running()]


def exposed(ray):
    return [s for s in sockets.listeners(everything(ray)) if not s.loopback]


def test_nothing_listens_beyond_loopback_and_every_door_asks_for_the_token(ray):
    ports = {s.port for s in sockets.listeners(everything(ray))}
    assert ports >= {ray.ports["gcs"], ray.ports["dashboard"], ray.ports["node_manager"]}
    assert ports <= set(range(min(ray.ports.values()), min(ray.ports.values()) + 100))
    assert exposed(ray) == []
    body = json.dumps({"entrypoint": "true"}).encode()
    request = urllib.request.Request(f"{ray.address}/api/jobs/", data=body)
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request):
        pass
    with refused.value:
        assert refused.value.code == 401


def test_a_second_start_finds_the_first(ray):
    assert local.up(cpus=2) == ray
    with pytest.raises(ClusterError, match="asks for 9999"):
        local.up(cpus=9999)


def test_a_job_goes_on_after_its_worker_is_killed_and_listens_on_loopback_only(ray, place):
    run = run_of(place, "killed", steps=150)
    submitted = submit.submit(run, address=None)
    until(lambda: len(steps(run.folder)) > 20, "the first steps")
    assert exposed(ray) == []
    with pytest.raises(ClusterError, match=f"running already .*{submitted.submission_id}"):
        submit.submit(run, address=None)

    worker = processes.find(int((run.folder / "rank-1.pid").read_text()))
    assert worker is not None
    killed_at = time.time()
    processes.send(worker, signal.SIGKILL)
    assert wait(run.folder) == Exit.OK

    one, two = attempts.read_attempts(run.folder)
    assert (one.state, one.failed_rank, two.state) == ("failed", 1, "finished")
    assert "vanished" in one.error
    told = steps(run.folder)
    assert [line["step"] for line in told] == list(range(1, 151))
    first = next(line["time"] for line in told if line["attempt"] == 1)
    print(f"{first - killed_at:.1f} s from SIGKILL to the next step")  # noqa: T201
    assert (run.folder / "report.html").exists()


def test_a_stopped_job_exits_with_five_and_continues_when_submitted_again(ray, place):
    run = run_of(place, "stopped", steps=1_000_000)
    submit.submit(run, address=None)
    until(lambda: steps(run.folder), "the first step")
    assert job_commands.stop(str(run.folder)) == Exit.OK
    assert wait(run.folder) == Exit.STOPPED
    reached = len(steps(run.folder))

    run = run_of(place, "stopped", steps=reached + 10)
    submit.submit(run, address=None)
    assert wait(run.folder) == Exit.OK
    assert [line["attempt"] for line in steps(run.folder)] == [0] * reached + [1] * 10
    assert [a.state for a in attempts.read_attempts(run.folder)] == ["stopped", "finished"]


def test_a_job_that_fails_three_times_ends_with_the_first_rank_s_error(ray, place, capsys):
    run = run_of(place, "failing", steps=10)
    run.folder.mkdir(parents=True)
    (run.folder / "fail").touch()
    submit.submit(run, address=None)
    assert wait(run.folder) == Exit.FAILED
    assert [a.state for a in attempts.read_attempts(run.folder)] == ["failed"] * 3
    capsys.readouterr()
    assert job_commands.status(str(run.folder), json=True) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "ZeroDivisionError: rank 1 divides by zero"
    assert told["failed_rank"] == 1
    assert told["reason"] == "3 attempts came no further than step 0"
    assert "Traceback" in (run.folder / "logs" / "driver.log").read_text()


def test_data_that_a_node_does_not_see_fails_the_job_before_any_rank_starts(ray, place):
    tree = config.plain(run_of(place, "blind", steps=10))
    tree["data"]["path"] = str(place / "nowhere")
    run = config.from_tree(tree, source="test")
    submit.submit(run, address=None)
    assert wait(run.folder) == Exit.FAILED
    (told,) = attempts.read_attempts(run.folder)
    assert f"does not see the data in {place / 'nowhere'}" in told.error
    assert not (run.folder / "rank-0.pid").exists()
    assert not list(run.folder.glob(".visible-*"))


def test_a_job_that_is_killed_can_be_continued_and_down_leaves_nothing_behind(ray, place):
    run = run_of(place, "cut-off", steps=1_000_000)
    submit.submit(run, address=None)
    until(lambda: steps(run.folder), "the first step")
    before = [p for p in map(processes.find, everything(ray)) if p is not None]
    assert int((run.folder / "rank-0.pid").read_text()) in {p.pid for p in before}
    assert job_commands.cluster_down() == Exit.USAGE  # it works on a job
    assert job_commands.stop(str(run.folder), now=True) == Exit.OK
    assert wait(run.folder) == Exit.STOPPED

    assert job_commands.cluster_down() == Exit.OK
    assert [p for p in before if p.alive()] == []
    assert local.current() is None
    assert not Path(ray.session).exists()
    assert not any(Path(f"/proc/{p.pid}").exists() for p in before if p != ray.keeper)  # no zombie
    assert job_commands.wait(str(run.folder)) == Exit.STOPPED  # now told by the run folder alone
