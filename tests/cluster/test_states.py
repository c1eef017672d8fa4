import pytest

from cluster.errors import Exit
from cluster.states import ACTIVE, EXIT_CODE, job_state

CASES = [
    # (Ray's status, driver's exit code, last attempt, stop asked for) -> state
    ("PENDING", None, None, False, "pending"),
    ("RUNNING", None, None, False, "starting"),
    ("RUNNING", None, "running", False, "running"),
    ("RUNNING", None, "failed", False, "starting"),  # between two attempts
    ("RUNNING", None, "running", True, "stopping"),
    ("SUCCEEDED", 0, "finished", False, "finished"),
    ("STOPPED", None, "running", False, "stopped"),  # stop --now
    ("FAILED", 5, "stopped", True, "stopped"),
    ("FAILED", 1, "failed", False, "failed"),
    ("FAILED", 1, None, False, "failed"),  # refused before any attempt
    ("FAILED", None, "running", False, "lost"),  # the driver was killed
    (None, None, "running", False, "lost"),  # the cluster is gone
    (None, None, None, False, "lost"),
    (None, None, "finished", False, "finished"),
    (None, None, "stopped", False, "stopped"),
    (None, None, "failed", False, "failed"),
    (None, None, "lost", False, "lost"),
]


@pytest.mark.parametrize(("ray", "driver_exit", "last", "stop", "state"), CASES)
def test_state_follows_from_ray_and_the_run_folder(ray, driver_exit, last, stop, state):
    told = job_state(ray=ray, driver_exit=driver_exit, last_attempt=last, stop_requested=stop)
    assert told == state


def test_every_state_is_either_active_or_has_an_exit_code():
    states = {case[-1] for case in CASES}
    assert states == ACTIVE | EXIT_CODE.keys()
    assert not ACTIVE & EXIT_CODE.keys()


def test_a_stopped_job_can_be_told_from_a_failed_one_by_exit_code():
    assert EXIT_CODE["stopped"] == Exit.STOPPED == 5
    assert EXIT_CODE["failed"] == EXIT_CODE["lost"] == Exit.FAILED == 1
