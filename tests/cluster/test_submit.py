import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import attempts, submit
from cluster.attempts import Attempt
from cluster.errors import ClusterError, Unreachable
from tests.cluster.server import job_server
from trainer import config
from trainer.config import RUN_NAME

JOB = {"status": "RUNNING", "message": "", "driver_exit_code": None}


@pytest.fixture
def run(tmp_path):
    tree = {"name": "a", "steps": 5, "data": {"path": "/data"}, "runs": str(tmp_path / "runs")}
    return config.from_tree(tree, source="test")


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")


def open_server(**answers):
    return job_server("secret", answers={"/api/version": (200, {"ray_version": "2"}), **answers})


def test_a_submission_writes_the_run_file_and_sends_only_its_folder(run):
    with open_server(**{"/api/jobs/": (200, {})}) as server:
        submission = submit.submit(run, address=server.address)
        sent = server.asked[-1][2]
    assert config.load(run.folder / "run.yaml") == run
    assert attempts.read_submission(run.folder) == submission
    assert sent["submission_id"] == submission.submission_id
    assert sent["runtime_env"] == {}
    assert str(run.folder) in sent["entrypoint"]
    assert submission.local is False


def test_a_run_that_is_being_worked_on_is_not_submitted_again(run):
    with open_server(**{"/api/jobs/": (200, {})}) as server:
        submission = submit.submit(run, address=server.address)
        identity = submission.submission_id
        server.answers[f"/api/jobs/{identity}"] = (200, JOB | {"submission_id": identity})
        with pytest.raises(ClusterError, match=f"starting already .*{identity}"):
            submit.submit(run, address=server.address)


def test_a_stopped_run_continues_under_the_next_id(run):
    with open_server(**{"/api/jobs/": (200, {})}) as server:
        one = submit.submit(run, address=server.address)
        attempts.write_attempts(run.folder, [Attempt(attempt=0, start=0.0, state="stopped")])
        two = submit.submit(run, address=server.address)
    assert (one.series, two.series) == (1, 2)
    assert one.submission_id != two.submission_id


def test_nothing_is_remembered_of_a_submission_that_the_cluster_refused(run):
    with (
        open_server(**{"/api/jobs/": (500, "no")}) as server,
        pytest.raises(ClusterError, match="answered 500"),
    ):
        submit.submit(run, address=server.address)
    assert attempts.read_submission(run.folder) is None


def test_a_cluster_out_of_reach_is_told_before_anything_is_written(run, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with open_server() as server, pytest.raises(Unreachable):
        submit.submit(run, address=server.address)
    assert not run.folder.exists()


def test_submission_ids_are_the_same_for_the_same_try_and_differ_by_folder():
    one = submit.submission_id("a" * 40, Path("/runs/a"), 1)
    assert one == submit.submission_id("a" * 40, Path("/runs/a"), 1)
    assert one != submit.submission_id("a" * 40, Path("/other/a"), 1)
    assert one != submit.submission_id("a" * 40, Path("/runs/a"), 2)
    assert re.fullmatch(RUN_NAME, one)


def test_the_command_survives_a_shell_whatever_the_folder_is_called():
    folder = Path("/home/o'brien/$(reboot)/runs; rm/a")
    words = shlex.split(submit.entrypoint(folder, "0.1", is_local=True))
    assert words == [
        sys.executable, "-P", "-m", "cluster.controller", str(folder), "--version", "0.1",
    ]  # fmt: skip


def test_another_cluster_s_python_is_found_there(tmp_path):
    line = submit.entrypoint(tmp_path, "0.1", is_local=False)
    start = line.split(" -P ")[0]
    found = subprocess.run(f"echo {start}", shell=True, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == sys.executable
    elsewhere = start.replace(sys.executable, "/nowhere/python")
    found = subprocess.run(
        f"echo {elsewhere}", shell=True, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip().endswith("/python3")
