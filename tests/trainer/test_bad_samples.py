import pytest

from trainer.bad_samples import BadSamples
from trainer.errors import RunError
from trainer.topology import Topology


def share_on_rank(found_by_rank: list[dict[int, str]], budget: int) -> dict[str, str]:
    topology = Topology.of_default_group()
    bad = BadSamples(topology=topology, budget=budget)
    bad.add(found_by_rank[topology.rank])
    bad.share()
    assert bad.num_new == 0
    return bad.for_checkpoint()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_knows_what_any_rank_found(ranks, world: int):
    found = [{7: "crc", 5: "decode"}, {}, {2: "label", 7: "crc"}][:world]
    expected = {str(k): v for part in found for k, v in part.items()}
    results = ranks(world).run(share_on_rank, found, 10)
    assert results == [dict(sorted(expected.items(), key=lambda item: int(item[0])))] * world


def test_more_than_the_budget_stops_every_rank_and_names_samples_and_reasons(ranks):
    with pytest.raises(AssertionError) as caught:
        ranks(2).run(share_on_rank, [{1: "crc", 9: "read"}, {4: "crc"}], 2)
    text = str(caught.value)
    assert "[rank 0]" in text
    assert "[rank 1]" in text
    assert "3 samples cannot be read (2 crc, 1 read; the first: 1, 4, 9)" in text
    assert RunError.__name__ in text


def restore_on_rank(kept: dict[str, str]) -> tuple[dict[int, str], dict[str, str]]:
    bad = BadSamples(topology=Topology.of_default_group(), budget=0)
    bad.restore(kept)
    return bad.known, bad.for_checkpoint()


def test_a_checkpoints_list_reads_back_to_the_same_samples(ranks):
    [(known, kept)] = ranks(1).run(restore_on_rank, {"12": "crc", "3": "decode"})
    assert known == {12: "crc", 3: "decode"}
    assert kept == {"3": "decode", "12": "crc"}
