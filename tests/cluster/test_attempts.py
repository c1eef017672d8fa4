import json

from cluster import attempts
from cluster.attempts import Attempt, Submission


def test_attempts_are_one_line_each_and_read_back(tmp_path):
    told = [
        Attempt(attempt=0, start=1.0, end=2.0, state="failed", error='a "quoted"\nerror'),
        Attempt(attempt=1, start=2.0),
    ]
    attempts.write_attempts(tmp_path, told)
    assert len((tmp_path / "attempts.jsonl").read_text().splitlines()) == 2
    assert attempts.read_attempts(tmp_path) == told


def test_a_new_run_folder_has_no_attempts_and_no_submission(tmp_path):
    assert attempts.read_attempts(tmp_path) == []
    assert attempts.read_submission(tmp_path) is None


def test_only_an_attempt_in_progress_is_told_as_stopped_by_a_kill(tmp_path):
    attempts.close_attempt(tmp_path, reason="killed", end=9.0)
    assert attempts.read_attempts(tmp_path) == []
    finished, running = Attempt(attempt=0, start=0.0, state="finished"), Attempt(attempt=1, start=1)
    attempts.write_attempts(tmp_path, [finished])
    attempts.close_attempt(tmp_path, reason="killed", end=9.0)
    assert attempts.read_attempts(tmp_path) == [finished]
    attempts.write_attempts(tmp_path, [finished, running])
    attempts.close_attempt(tmp_path, reason="killed", end=9.0)
    last = attempts.read_attempts(tmp_path)[-1]
    assert (last.state, last.reason, last.end) == ("stopped", "killed", 9.0)


def test_the_submission_reads_back(tmp_path):
    told = Submission(
        submission_id="a-1", series=1, address="http://x:1", local=True, submitted=1.5, version="0"
    )
    attempts.write_submission(tmp_path, told)
    assert attempts.read_submission(tmp_path) == told


def history(folder, text):
    (folder / "metrics").mkdir()
    (folder / "metrics" / "history.jsonl").write_text(text)


def test_no_step_is_done_in_an_empty_folder(tmp_path):
    assert attempts.high_water_step(tmp_path) == 0


def test_the_history_s_last_whole_line_tells_the_step_and_a_torn_one_does_not(tmp_path):
    history(tmp_path, '{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert attempts.high_water_step(tmp_path) == 2


def test_only_the_end_of_a_long_history_is_read_and_the_line_cut_in_two_is_left_out(tmp_path):
    lines = [json.dumps({"step": step, "pad": "x" * 400}) for step in range(1000)]
    history(tmp_path, "not JSON\n" + "\n".join(lines) + "\n")
    assert attempts.high_water_step(tmp_path) == 999


def test_a_checkpoint_counts_where_the_history_says_less(tmp_path):
    history(tmp_path, '{"step": 5}\n')
    (tmp_path / "checkpoints" / "step-000000012").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000000099.partial").mkdir()
    assert attempts.high_water_step(tmp_path) == 12
