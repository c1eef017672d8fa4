import os

import pytest

from data_pipeline.errors import DataError
from data_pipeline.processes import AHEAD, map_in_order


def square(number):
    if number == 13:
        raise ValueError("unlucky")
    if number == 14:
        os._exit(1)
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_tasks(workers):
    assert list(map_in_order(square, range(12), workers=workers)) == [n * n for n in range(12)]


def test_tasks_are_taken_only_a_little_ahead():
    taken = []
    tasks = (taken.append(n) or 2 for n in range(100))
    for i, result in enumerate(map_in_order(square, tasks, workers=2)):
        assert result == 4
        assert len(taken) <= i + 1 + 2 * AHEAD


def test_an_exception_in_a_worker_ends_the_map_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"in a worker process:\n(.*\n)*ValueError: unlucky"):
        list(map_in_order(square, [1, 13], workers=2))


def test_a_worker_that_dies_is_noticed():
    with pytest.raises(DataError, match="a worker process ended by itself"):
        list(map_in_order(square, [1, 14], workers=2))
