import json
import socket
import subprocess
import sys

import pytest

from cluster import attempts, job_commands
from cluster.attempts import Attempt, Submission
from cluster.errors import Exit
from tests.cluster.server import job_server
from trainer import config
from trainer.run_folder import prepare


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FACESCALE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def folder(runs):
    tree = {"name": "a", "steps": 5, "data": {"path": "/data"}, "runs": str(runs)}
    return prepare(config.from_tree(tree, source="test"))


def submitted(folder, address, *, local=False):
    submission = Submission(
        submission_id="a-1", series=1, address=address, local=local, submitted=1.0, version="0"
    )
    attempts.write_submission(folder, submission)


def answer(capsys):
    return json.loads(capsys.readouterr().out)


def jobs(status, exit_code=None):
    told = {"submission_id": "a-1", "status": status, "message": "m", "driver_exit_code": exit_code}
    return job_server(
        "secret", answers={"/api/jobs/a-1": (200, told), "/api/jobs/a-1/stop": (200, {})}
    )


STATUS_KEYS = [
    "run", "state", "step", "steps", "attempts", "reason", "error", "failed_rank",
    "submission_id", "address", "folder",
]  # fmt: skip


def test_status_has_the_same_keys_for_every_run(folder, runs, capsys):
    assert job_commands.status("a", runs=runs, json=True) == Exit.OK
    told = answer(capsys)
    assert list(told) == STATUS_KEYS
    assert told["state"] is None
    failed = Attempt(attempt=0, start=0.0, state="failed", error="E: no", failed_rank=1)
    attempts.write_attempts(folder, [failed])
    with jobs("FAILED", 1) as server:
        submitted(folder, server.address)
        assert job_commands.status("a", runs=runs, json=True) == Exit.OK
    told = answer(capsys)
    assert list(told) == STATUS_KEYS
    assert (told["state"], told["error"], told["failed_rank"]) == ("failed", "E: no", 1)


@pytest.mark.parametrize(
    ("status", "driver_exit", "last", "code"),
    [
        ("SUCCEEDED", 0, "finished", Exit.OK),
        ("FAILED", 1, "failed", Exit.FAILED),
        ("FAILED", 5, "stopped", Exit.STOPPED),
        ("FAILED", None, "running", Exit.FAILED),
        ("RUNNING", None, "running", Exit.TIMEOUT),
    ],
)
def test_wait_s_exit_code_tells_how_the_job_ended(folder, runs, status, driver_exit, last, code):
    attempts.write_attempts(folder, [Attempt(attempt=0, start=0.0, state=last)])
    with jobs(status, driver_exit) as server:
        submitted(folder, server.address)
        assert job_commands.wait("a", timeout=0.0, runs=runs) == code


def test_a_run_that_was_never_submitted_cannot_be_waited_for(folder, runs, capsys):
    assert job_commands.wait("a", runs=runs) == Exit.USAGE
    assert capsys.readouterr().err == "facescale: a was never submitted\n"


def test_a_cluster_out_of_reach_is_one_line_and_exit_code_three(folder, runs, capsys):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        submitted(folder, f"http://127.0.0.1:{held.getsockname()[1]}")
        for verb in (job_commands.status, job_commands.wait, job_commands.stop):
            assert verb("a", runs=runs) == Exit.CLUSTER
            told = capsys.readouterr()
            assert told.out == ""
            assert len(told.err.splitlines()) == 1
        assert job_commands.list_jobs(runs=runs, json=True) == Exit.OK
        assert answer(capsys)["runs"][0]["state"] == "unreachable"


def test_a_refused_token_is_exit_code_three(folder, runs, monkeypatch, capsys):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with jobs("RUNNING") as server:
        submitted(folder, server.address)
        assert job_commands.status("a", runs=runs) == Exit.CLUSTER
    assert "does not accept the token" in capsys.readouterr().err


def test_a_local_job_whose_cluster_is_gone_is_told_from_the_run_folder(folder, runs, capsys):
    submitted(folder, "http://127.0.0.1:1", local=True)
    attempts.write_attempts(folder, [Attempt(attempt=0, start=0.0)])
    assert job_commands.status("a", runs=runs, json=True) == Exit.OK
    assert answer(capsys)["state"] == "lost"


def test_stop_asks_for_a_checkpoint_and_leaves_the_job_to_end(folder, runs, capsys):
    attempts.write_attempts(folder, [Attempt(attempt=0, start=0.0)])
    with jobs("RUNNING") as server:
        submitted(folder, server.address)
        assert job_commands.stop("a", runs=runs, json=True) == Exit.OK
        assert not [asked for asked in server.asked if asked[0] == "POST"]
    assert answer(capsys)["state"] == "stopping"
    assert (folder / "stop").exists()


def test_stop_now_asks_ray_to_kill_and_believes_only_what_it_sees(
    folder, runs, monkeypatch, capsys
):
    monkeypatch.setattr(job_commands, "KILL_TIMEOUT_S", 0.0)
    attempts.write_attempts(folder, [Attempt(attempt=0, start=0.0)])
    with jobs("RUNNING") as server:
        submitted(folder, server.address)
        assert job_commands.stop("a", now=True, runs=runs) == Exit.USAGE
        assert ("POST", "/api/jobs/a-1/stop", None) in server.asked
    assert "still running" in capsys.readouterr().err
    assert attempts.read_attempts(folder)[-1].state == "running"


def test_what_has_ended_cannot_be_stopped(folder, runs, capsys):
    with jobs("SUCCEEDED", 0) as server:
        submitted(folder, server.address)
        assert job_commands.stop("a", runs=runs) == Exit.USAGE
    assert "is not running: it is finished" in capsys.readouterr().err
    assert not (folder / "stop").exists()


def test_list_has_a_line_a_run(folder, runs, capsys):
    assert job_commands.list_jobs(runs=runs, json=True) == Exit.OK
    (row,) = answer(capsys)["runs"]
    assert row == {
        "run": "a", "state": None, "step": 0, "steps": 5, "attempts": 0, "submission_id": None,
    }  # fmt: skip
    assert job_commands.list_jobs(runs=runs / "none", json=True) == Exit.OK
    assert answer(capsys) == {"runs": []}


def test_logs_prints_the_driver_s_and_rank_0_s(folder, runs, capsys):
    (folder / "logs" / "driver.log").write_text("attempt 0\n")
    (folder / "logs" / "rank-00000.log").write_text("step 1\n")
    assert job_commands.logs("a", runs=runs) == Exit.OK
    assert capsys.readouterr().out == "driver | attempt 0\nrank 0 | step 1\n"


def test_logs_of_a_rank_that_wrote_none_says_so(folder, runs, capsys):
    assert job_commands.logs("a", rank=7, runs=runs) == Exit.USAGE
    assert capsys.readouterr().err == "facescale: a has no log of rank 7\n"


def test_a_driver_that_did_not_come_to_its_own_log_is_read_from_ray(folder, runs, capsys):
    with jobs("FAILED", 1) as server:
        server.answers["/api/jobs/a-1/logs"] = (200, {"logs": "No module named cluster\n"})
        submitted(folder, server.address)
        assert job_commands.logs("a", runs=runs) == Exit.OK
    assert capsys.readouterr().out == "ray | No module named cluster\n"


def test_the_cluster_is_down_where_none_was_started(capsys):
    assert job_commands.cluster_status(json=True) == Exit.OK
    assert answer(capsys) == {"state": "down"}
    assert job_commands.cluster_down(json=True) == Exit.OK
    assert answer(capsys) == {"state": "down", "ended_processes": 0}


def test_a_bad_name_is_a_usage_error(runs, capsys):
    for verb in (job_commands.status, job_commands.logs, job_commands.stop, job_commands.wait):
        assert verb("$(id)", runs=runs) == Exit.USAGE
        assert "is no run name" in capsys.readouterr().err


def test_the_verbs_need_neither_ray_nor_torch_to_be_imported():
    code = (
        "import sys, cluster.job_commands; print({'ray', 'torch', 'pydantic'} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
