"""What `bench_plan` makes of its measurements, with numbers that can be followed by hand."""

import json
from dataclasses import asdict

import pytest

from tests.benchmarks.bench_plan import _prediction, _row
from tests.benchmarks.planned import Prediction, Visit, all_planned
from tests.trainer.planning.numbers import constants, machine
from trainer.planning.yardstick import Yardstick

CALIBRATED = Yardstick(operations_per_s=8e9, bytes_per_s=4e9)
HALVED = Yardstick(operations_per_s=4e9, bytes_per_s=4e9)
PREDICTED = Prediction(seconds=1.2, head_bytes=110, moved_share=0.5, yardstick=CALIBRATED)


def test_an_error_is_that_of_the_fastest_visit_and_memorys_of_the_median():
    visits = [
        Visit(seconds, size, CALIBRATED, CALIBRATED) for seconds, size in ((1.5, 90), (3, 100))
    ]
    row = _row("a head", PREDICTED, [*visits, Visit(1.0, 200, CALIBRATED, CALIBRATED)])
    assert row["error %"] == pytest.approx(20.0)
    assert row["error of median %"] == pytest.approx(-20.0)
    assert row["error without drift %"] == pytest.approx(-20.0)
    assert row["drift %"] == pytest.approx(0.0)
    assert row["spread %"] == pytest.approx(200.0)
    assert row["memory error %"] == pytest.approx(10.0)


def test_a_machine_that_computes_at_half_speed_is_no_error_of_the_model():
    # Half of the step is computing, which takes twice as long: 1.5 times the prediction.
    slow = Visit(1.8, None, HALVED, HALVED)
    row = _row("a head", PREDICTED, [slow, slow])
    assert row["error %"] == pytest.approx(-100 / 3)
    assert row["drift %"] == pytest.approx(50.0)
    assert row["error without drift %"] == pytest.approx(0.0, abs=1e-9)
    assert row["memory error %"] == ""


def test_a_visit_has_the_speed_of_its_faster_reading():
    assert Visit(1.0, None, HALVED, CALIBRATED).drift(PREDICTED) == 1.0
    assert Visit(1.0, None, HALVED, HALVED).drift(PREDICTED) == 1.5


def test_predictions_read_back_from_their_file_as_they_were_written():
    assert _prediction(json.loads(json.dumps(asdict(PREDICTED)))) == PREDICTED


def test_at_least_twelve_configurations_are_planned_some_of_two_ranks_and_two_whole_runs():
    planned = all_planned(scale=100)
    names = [each.name for each in planned]
    assert len(set(names)) == len(planned) >= 12
    assert sum("2 x 1 threads" in name for name in names) >= 3
    known = [constants(ranks=ranks, threads=2 // ranks, yardstick=CALIBRATED) for ranks in (1, 2)]
    for each in planned:
        found = each.predicted(machine(*known))
        assert found.seconds > 0
        assert 0 <= found.moved_share < 1
        assert (found.head_bytes is None) == ("people" in each.name)
