import socket

import pytest

from cluster.client import Job, Jobs, token_of_environment
from cluster.errors import ClusterError, Exit, Unreachable
from tests.cluster.server import job_server

INFO = {
    "submission_id": "a-1",
    "status": "FAILED",
    "message": None,
    "driver_exit_code": 5,
    "entrypoint": "x",
}


def test_a_job_is_read_from_what_ray_tells():
    with job_server("secret", answers={"/api/jobs/a-1": (200, INFO)}) as server:
        job = Jobs(server.address + "/", token="secret").get("a-1")
    assert job == Job(submission_id="a-1", status="FAILED", message="", exit_code=5)


def test_a_submission_sends_the_command_the_id_and_no_working_directory():
    with job_server("secret", answers={"/api/jobs/": (200, {})}) as server:
        Jobs(server.address, token="secret").submit(
            "python x", submission_id="a-1", metadata={"run": "a"}
        )
        ((method, path, body),) = server.asked
    assert (method, path) == ("POST", "/api/jobs/")
    assert body == {
        "entrypoint": "python x",
        "submission_id": "a-1",
        "runtime_env": {},
        "metadata": {"run": "a"},
    }


def test_drivers_without_a_submission_are_left_out_of_the_list():
    interactive = INFO | {"submission_id": None}
    with job_server("secret", answers={"/api/jobs/": (200, [interactive, INFO])}) as server:
        assert [job.submission_id for job in Jobs(server.address, token="secret").known()] == [
            "a-1"
        ]


def test_a_job_that_the_cluster_has_forgotten_is_none():
    with job_server("secret") as server:
        assert Jobs(server.address, token="secret").get("a-1") is None


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_refused_token_names_the_variable_to_set(token):
    with job_server("secret") as server, pytest.raises(Unreachable) as caught:
        Jobs(server.address, token=token).version()
    assert "RAY_AUTH_TOKEN_PATH" in str(caught.value)
    assert caught.value.code == Exit.CLUSTER == 3


def test_a_cluster_that_does_not_answer_is_unreachable():
    with socket.socket() as held:  # bound, but nobody listens
        held.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(Unreachable, match="no Ray job server answers at http://127"):
            Jobs(address, token=None).version()


def test_what_is_no_job_server_is_unreachable_too():
    answers = {"/api/version": (200, "<html>")}
    with (
        job_server("secret", answers=answers) as server,
        pytest.raises(Unreachable, match="no Ray job server"),
    ):
        Jobs(server.address, token="secret").version()


def test_ray_s_own_objection_is_passed_on():
    answers = {"/api/jobs/": (500, "Traceback ...\nValueError: Job with submission_id a-1 exists")}
    with (
        job_server("secret", answers=answers) as server,
        pytest.raises(ClusterError, match="submission_id a-1 exists"),
    ):
        Jobs(server.address, token="secret").submit("x", submission_id="a-1", metadata={})


@pytest.mark.parametrize("address", ["host:8265", "ray://host:10001", "file:///etc/passwd"])
def test_an_address_must_be_the_dashboard_s(address):
    with pytest.raises(ClusterError, match="http://HOST:PORT"):
        Jobs(address, token=None)


def test_the_token_comes_from_the_variable_or_the_file_it_names(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert token_of_environment() is None
    (tmp_path / "token").write_text("filed\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert token_of_environment() == "filed"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "direct")
    assert token_of_environment() == "direct"


def test_a_token_file_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(ClusterError, match="nowhere cannot be read"):
        token_of_environment()
