import pytest
import torch

from sharded_fc import Statistics
from trainer.history import History, combine
from trainer.step import PhaseTimer, StepOutcome
from trainer.topology import Topology


def outcome(loss: float) -> StepOutcome:
    timer = PhaseTimer(torch.device("cpu"))
    timer.end("forward")
    statistics = Statistics(
        loss=torch.tensor(loss),
        target_cosine=torch.tensor(0.5),
        target_cosine_p05=torch.tensor(-0.25),
        hardest_negative_cosine=torch.tensor(0.25),
        negative_mass=torch.tensor(0.75),
        top1=torch.tensor(0.125),
        conflict_share=torch.tensor(0.0),
        committed=torch.tensor(data=True),
        bad_rank=torch.tensor(-1),
        used_maximum=torch.tensor(data=loss > 0.75),
        margin={"clamped_share": torch.tensor(0.5, dtype=torch.float64)},
    )
    return StepOutcome(
        statistics=statistics,
        gradient_norm=torch.tensor(2.0),
        skipped=loss > 0.75,
        timer=timer,
    )


def history_on_rank(digests: list[list[int]], shares: list[range], stop_on: int) -> list:
    topology = Topology.of_default_group()
    share = shares[topology.rank]
    history = History(
        topology=topology,
        micro_batches=len(digests[0]),
        batch_size=10,
        samples_an_epoch=40,
        attempt=3,
    )
    for step, row in enumerate(digests, start=1):
        history.add(
            outcome(loss=step / 2),
            step=step,
            learning_rate=0.5,
            digests=[row[j] for j in share],
            data_wait_s=0.5,
            total_s=2.0,
        )
    interval = history.flush(stop=topology.rank == stop_on, bad_samples=topology.rank)
    again = history.flush(stop=False, bad_samples=0)
    assert again.records == []
    assert not again.stop
    return [interval.records, interval.stop, interval.new_bad_samples]


@pytest.mark.parametrize(
    ("world", "shares"),
    [(1, [range(3)]), (2, [range(1), range(1, 3)]), (3, [range(1), range(1, 2), range(2, 3)])],
)
def test_digests_of_uneven_shares_combine_to_the_same_at_any_world_size(ranks, world, shares):
    digests = [[2**64 - 1, 5, 2**63], [1, 2, 3]]
    results = ranks(world).run(history_on_rank, digests, shares, world - 1)
    for records, stop, bad in results:
        assert [record["samples"] for record in records] == [combine(row) for row in digests]
        assert [record["loss"] for record in records] == [0.5, 1.0]
        assert stop
        assert bad == sum(range(world))
    first = results[0][0][1]
    assert first["step"] == 2
    assert first["epoch"] == 0.5
    assert first["samples_seen"] == 20
    assert first["skipped"] == ["backbone"]
    assert results[0][0][0]["skipped"] == []
    assert (first["target_cosine"], first["target_cosine_p05"]) == (0.5, -0.25)
    assert (first["top1"], first["negative_mass"], first["conflict_share"]) == (0.125, 0.75, 0.0)
    assert first["margin"] == {"clamped_share": 0.5}
    assert [record["used_maximum"] for record in results[0][0]] == [False, True]
    assert not any("." in name for name in first)
    assert set(first["seconds"]) == {"data_wait", "forward", "total"}
    assert first["images_per_second"] == 5.0
    assert first["attempt"] == 3


def test_the_combined_digest_depends_on_the_order():
    assert combine([1, 2]) != combine([2, 1])
    assert len(combine([1, 2])) == 16
