"""The rank pool itself: it answers in rank order, names the rank that fails, survives a hang."""

import os
import time
import warnings

import pytest

from tests.ranks import RankError, RankPool


def _sum_of_ranks() -> tuple[int, int]:
    import torch
    import torch.distributed as dist

    total = torch.tensor([dist.get_rank()])
    dist.all_reduce(total)
    return dist.get_rank(), int(total)


def _fail_on_one() -> None:
    import torch.distributed as dist

    if dist.get_rank() == 1:
        raise ValueError("a bad centre")


def _fail_beside_a_collective() -> None:
    import torch.distributed as dist

    if dist.get_rank() == 0:
        raise ValueError("left the others waiting")
    dist.barrier()


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _exit_hard() -> None:
    os._exit(7)


def _warn() -> None:
    warnings.warn("something upstream changed", stacklevel=1)


def test_every_rank_answers_in_rank_order(ranks):
    assert ranks(2).run(_sum_of_ranks) == [(0, 1), (1, 1)]


def test_a_failure_names_its_rank_and_holds_the_traceback(ranks):
    with pytest.raises(RankError, match=r"(?s)^\[rank 1\] Traceback.*ValueError: a bad centre"):
        ranks(2).run(_fail_on_one)


def test_a_pool_whose_ranks_all_answered_is_kept(ranks):
    pool = ranks(2)
    with pytest.raises(RankError):
        pool.run(_fail_on_one)
    assert ranks(2) is pool
    assert pool.run(_sum_of_ranks) == [(0, 1), (1, 1)]


def test_a_failure_beside_a_collective_is_reported_and_the_next_test_gets_a_fresh_pool(ranks):
    broken = ranks(2)
    with pytest.raises(RankError, match=r"\[rank 0\].*(?s:.)*left the others waiting"):
        broken.run(_fail_beside_a_collective)
    assert not broken.alive
    assert ranks(2).run(_sum_of_ranks) == [(0, 1), (1, 1)]


def test_a_hang_trips_the_timeout_and_kills_the_pool():
    pool = RankPool(1)
    pool.timeout_s = 0.5
    with pytest.raises(RankError, match=r"\[rank 0\] no answer: 0.5 s passed"):
        pool.run(_sleep, 60)
    assert not pool.alive


def test_a_rank_that_dies_is_named(ranks):
    with pytest.raises(RankError, match=r"\[rank 0\] died, exit code 7"):
        ranks(1).run(_exit_hard)


def test_warnings_are_errors_on_the_ranks_too(ranks):
    with pytest.raises(RankError, match="something upstream changed"):
        ranks(1).run(_warn)
