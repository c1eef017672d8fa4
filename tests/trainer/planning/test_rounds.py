"""Rounds of measurements, and the yardstick that compares one minute with another."""

import time
from collections.abc import Hashable

import pytest
import torch
import torch.distributed as dist

from tests.ranks import RankPools
from trainer.planning import yardstick
from trainer.planning.clock import Clock
from trainer.planning.rounds import repeated
from trainer.planning.yardstick import Yardstick, measure_yardstick
from trainer.topology import Topology


@pytest.fixture
def clock() -> Clock:
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    return Clock(dist.ProcessGroup(store, 0, 1), torch.device("cpu"))


def test_slow_rounds_change_no_number(clock: Clock):
    taken = iter([(1.0, 7.0), (9.0, 8.0), (2.0, 70.0)])

    def measure() -> dict[Hashable, float]:
        first, second = next(taken)
        return {"first": first, ("second", 2): second}

    found = repeated(measure, clock, least=3, seconds=0.0)
    assert found == {"first": 1.0, ("second", 2): 7.0}
    assert next(taken, None) is None


def rounds_taken() -> int:
    """How many rounds this rank made, of which the first rank's take longer."""
    topology = Topology.of_default_group()
    rounds = []

    def measure() -> dict[Hashable, float]:
        rounds.append(1)
        time.sleep(0.0 if topology.rank else 0.02)
        return {"round": 1.0}

    repeated(measure, Clock(topology.group, topology.device), least=1, seconds=0.05)
    return len(rounds)


def test_all_ranks_make_as_many_rounds_however_long_theirs_take(ranks: RankPools):
    first, second = ranks(2).run(rounds_taken)
    assert first == second > 1


def test_a_machine_at_half_its_speed_takes_twice_as_long():
    then = Yardstick(operations_per_s=8e9, bytes_per_s=4e9)
    now = Yardstick(operations_per_s=4e9, bytes_per_s=4e9)
    assert then.drift(now, moved_share=0.0) == 2.0
    assert then.drift(now, moved_share=1.0) == 1.0
    assert then.drift(now, moved_share=0.25) == 1.75
    assert then.drift(then, moved_share=0.4) == pytest.approx(1.0, rel=1e-15)


def test_a_reading_is_of_both_kinds_of_work(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(yardstick, "COPIED_ITEMS", 1 << 12)
    monkeypatch.setattr(yardstick, "LEAST_S", 0.0)
    found = measure_yardstick(clock)
    assert found.operations_per_s > 0
    assert found.bytes_per_s > 0
