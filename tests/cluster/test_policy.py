import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.policy import Ended, Progress, decide

CASES = [
    # (high water, failures without progress), (cause, step, stop asked for) -> outcome, memory
    ((0, 0), ("finished", 9, False), "finished", (9, 0), "all steps done at step 9"),
    ((0, 2), ("stopped", 4, True), "stopped", (4, 2), "stopped at step 4"),
    ((4, 0), ("killed", 9, False), "restart", (9, 0), "had come to step 9"),
    ((4, 2), ("killed", 9, False), "restart", (9, 0), "had come to step 9"),
    ((4, 0), ("killed", 4, False), "restart", (4, 1), "failure 1 of 3"),
    ((4, 1), ("error", 4, False), "restart", (4, 2), "failure 2 of 3"),
    ((4, 2), ("error", 4, False), "failed", (4, 3), "3 attempts came no further than step 4"),
    ((4, 2), ("error", 3, False), "failed", (4, 3), "3 attempts came no further than step 4"),
    ((0, 0), ("refused", 9, False), "failed", (9, 0), "would fail in the same way"),
    ((4, 2), ("no_room", 4, False), "restart", (4, 2), "waiting for room"),
    ((4, 2), ("preempted", 4, False), "restart", (4, 0), "preempted"),
    ((4, 0), ("killed", 9, True), "stopped", (9, 0), "asked to stop"),
    ((4, 0), ("no_room", 4, True), "stopped", (4, 0), "asked to stop"),
]


@pytest.mark.parametrize(("before", "event", "outcome", "after", "reason"), CASES)
def test_what_follows_the_end_of_an_attempt(before, event, outcome, after, reason):
    progress, decision = decide(Progress(*before), Ended(*event), limit=3)
    assert decision.outcome == outcome
    assert progress == Progress(*after)
    assert reason in decision.reason


@given(st.lists(st.tuples(st.sampled_from(["killed", "error"]), st.integers(0, 20)), max_size=60))
def test_a_job_ends_after_as_many_fruitless_attempts_in_a_row_as_allowed_and_not_before(attempts):
    progress, highest, fruitless = Progress(), 0, 0
    for cause, step in attempts:
        progress, decision = decide(progress, Ended(cause, step), limit=3)
        fruitless = 0 if step > highest else fruitless + 1
        highest = max(highest, step)
        assert decision.outcome == ("failed" if fruitless == 3 else "restart")
        if decision.outcome == "failed":
            break
