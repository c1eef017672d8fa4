import json

import pytest

from cluster import attempts
from cluster.attempts import Attempt
from cluster.controller import AttemptFailed, Job, main
from cluster.errors import Exit
from cluster.failures import Failure
from trainer import config


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "logs").mkdir()
    return tmp_path


RUN = config.from_tree(
    {"name": "a", "steps": 100, "data": {"path": "data"}, "cluster": {"workers": 2}}, source="test"
)


def train(config, *, topology, folder, attempt):
    raise AssertionError("the scripted worker group runs no training")


def job(folder, *script):
    """A job whose worker groups end as the script says: (steps reached, outcome or failure)."""
    ends = iter(script)

    def fit(assignment):
        step, end = next(ends)
        history = folder / "metrics" / "history.jsonl"
        history.write_text(json.dumps({"step": step}) + "\n")
        assignments.append(assignment)
        if isinstance(end, BaseException):
            raise end
        return end

    assignments = []
    made = Job(config=RUN, folder=folder, version="1", fit=fit, clock=iter(range(100)).__next__)
    return made, assignments


def killed(rank=1):
    return AttemptFailed(
        Failure(cause="killed", rank=rank, time=0.0, error=f"rank {rank} vanished")
    )


def error(text="ValueError: no"):
    return AttemptFailed(Failure(cause="error", rank=0, time=0.0, error=text, details="Traceback"))


def test_a_killed_worker_is_followed_by_another_attempt_that_may_finish(folder):
    made, assignments = job(folder, (7, killed()), (100, "finished"))
    assert made.run(train) == Exit.OK
    assert [a.attempt for a in assignments] == [0, 1]
    assert attempts.read_attempts(folder) == [
        Attempt(
            attempt=0,
            start=0,
            end=1,
            state="failed",
            reason="the attempt had come to step 7",
            high_water_step=7,
            error="rank 1 vanished",
            failed_rank=1,
        ),
        Attempt(
            attempt=1,
            start=2,
            end=3,
            state="finished",
            reason="all steps done at step 100",
            high_water_step=100,
        ),
    ]


def test_three_attempts_that_come_no_further_fail_the_job_with_the_rank_s_error(folder):
    made, assignments = job(folder, (0, error()), (0, error()), (0, error()), (0, "finished"))
    assert made.run(train) == Exit.FAILED
    assert len(assignments) == 3
    last = attempts.read_attempts(folder)[-1]
    assert (last.state, last.error, last.failed_rank) == ("failed", "ValueError: no", 0)


def test_a_history_that_was_cut_back_to_a_checkpoint_is_no_progress(folder):
    made, assignments = job(
        folder, (9, error()), (5, error()), (9, error()), (8, error()), (9, "finished")
    )
    assert made.run(train) == Exit.FAILED
    assert [a.high_water_step for a in attempts.read_attempts(folder)] == [9, 9, 9, 9]
    assert len(assignments) == 4


def test_a_stopped_run_exits_with_five_and_the_next_submission_counts_on(folder):
    made, _ = job(folder, (7, "stopped"))
    assert made.run(train) == Exit.STOPPED
    made, assignments = job(folder, (100, "finished"))
    assert made.run(train) == Exit.OK
    assert assignments[0].attempt == 1
    assert [a.state for a in attempts.read_attempts(folder)] == ["stopped", "finished"]


def test_a_stop_that_comes_while_a_worker_dies_ends_the_job_as_stopped(folder):
    made, _ = job(folder, (7, killed()))
    (folder / "stop").touch()
    assert made.run(train) == Exit.STOPPED


def test_an_attempt_whose_driver_vanished_is_told_as_lost_by_the_next(folder):
    attempts.write_attempts(folder, [Attempt(attempt=4, start=0.0, high_water_step=50)])
    made, _ = job(folder, (40, error()), (60, "finished"))
    assert made.run(train) == Exit.OK
    lost, failed, _ = attempts.read_attempts(folder)
    assert (lost.state, lost.reason) == ("lost", "its driver vanished")
    assert (failed.attempt, failed.high_water_step) == (5, 50)


def test_an_attempt_in_progress_has_a_line(folder):
    seen = []

    def fit(assignment):
        seen.extend(attempts.read_attempts(folder))
        return "finished"

    Job(config=RUN, folder=folder, version="1", fit=fit).run(train)
    assert [a.state for a in seen] == ["running"]


def test_a_head_node_that_does_not_see_the_run_folder_says_so(tmp_path, capsys):
    assert main([str(tmp_path / "runs" / "a"), "--version", "1"]) == Exit.FAILED
    assert "does not see the run folder" in capsys.readouterr().err
