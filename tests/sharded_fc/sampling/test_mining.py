"""The classes mined for a batch: near ones, the same on every rank, none that a sample owns."""

import pytest
import torch
import torch.distributed as dist

from tests.sharded_fc.sampling.clusters import brute_force, clustered_centres

CPU = torch.device("cpu")


def mine(
    centre,
    embedding,
    label,
    *,
    count,
    sub_centres=1,
    counted=None,
    probes=1000,
    cut=None,
    ranges=None,
):
    """The classes mined by this rank of all; `centre` has all ranks' rows."""
    from sharded_fc.collectives import Ranks
    from sharded_fc.partition import bounds
    from sharded_fc.sampling.mining import Miner
    from sharded_fc.sampling.near_index import NearIndex
    from sharded_fc.sampling.signatures import Signatures
    from sharded_fc.storage import Rows

    ranks = Ranks.of(None)
    if cut is None and dist.is_initialized():
        cut = bounds(len(centre) // sub_centres, ranks.size)[ranks.rank]
    start, stop = (0, len(centre) // sub_centres) if cut is None else cut
    start, stop = start * sub_centres, stop * sub_centres
    rows = Rows(
        start,
        stop,
        embedding_dim=centre.shape[1],
        state_widths={},
        seed=0,
        device=CPU,
        dtype=torch.float32,
        state_dtype=torch.float32,
    )
    rows.fill([(0, {"centre": centre})])
    signatures = Signatures(centre.shape[1], num_rows=len(centre), seed=0, device=CPU)
    miner = Miner(
        NearIndex(rows, signatures, probes=probes), ranks, count=count, sub_centres=sub_centres
    )
    counted = torch.ones_like(label, dtype=torch.bool) if counted is None else counted
    return miner.classes(embedding, label, counted, ranges)


def test_the_nearest_classes_of_each_sample_are_mined_but_its_own():
    """All lists are looked through, so that only the codes choose: 256 bits tell clusters apart."""
    centre = clustered_centres(80, 5, dim=256)
    label = torch.tensor([3, 100, 250, 399])
    wanted = brute_force(centre[label], centre, most=5)
    assert torch.equal(wanted[:, 0], label)
    mined = mine(centre, centre[label], label, count=16)
    assert torch.equal(mined, wanted[:, 1:].unique())


def test_each_sample_gets_at_least_one_and_no_more_than_its_share():
    centre = clustered_centres(80, 5, dim=64)
    label = torch.arange(0, 400, 20)
    assert 1 <= len(mine(centre, centre[label], label, count=3)) <= len(label)
    assert len(mine(centre, centre[label], label, count=50)) <= 2 * len(label)


@pytest.mark.parametrize("sub_centres", [1, 2])
@pytest.mark.parametrize("probes", [3, 1000])
def test_any_number_of_ranks_mines_the_same_classes(ranks, sub_centres, probes):
    centre = clustered_centres(61, 6, dim=32)
    label = torch.arange(0, 180, 13)
    embedding = centre[label * sub_centres] + 0.02
    kwargs = (centre, embedding, label)
    alone = mine(*kwargs, count=60, sub_centres=sub_centres, probes=probes)
    assert len(alone) > 20
    for world in (2, 3):
        for found in ranks(world).run(mine_on_ranks, *kwargs, sub_centres, probes):
            assert torch.equal(found, alone)


def mine_on_ranks(centre, embedding, label, sub_centres, probes):
    return mine(centre, embedding, label, count=60, sub_centres=sub_centres, probes=probes)


def test_samples_that_do_not_count_mine_nothing():
    centre = clustered_centres(40, 5, dim=64)
    label = torch.tensor([0, -1, 7])
    embedding = centre[[0, 100, 7]]
    counted = torch.tensor([True, False, True])
    both = mine(centre, embedding[[0, 2]], label[[0, 2]], count=4)
    assert torch.equal(mine(centre, embedding, label, count=6, counted=counted), both)
    with_all = mine(centre, embedding, label, count=6)
    assert 100 in with_all  # nobody's face is near some class all the same


@pytest.mark.parametrize("sub_centres", [1, 2])
def test_a_sample_mines_classes_that_it_competes_with_and_no_fewer(sub_centres):
    """Two datasets of the same people: the nearest other classes are the other set's, not ours."""
    half = clustered_centres(40, 5, dim=256).repeat_interleave(sub_centres, 0)
    centre = torch.cat([half, half + 0.001])
    label = torch.tensor([3, 100, 203, 399])
    embedding = centre[label * sub_centres]
    start = torch.where(label < 200, 0, 200)
    ranges = torch.stack([start, start + 200])
    mine_of = {"count": 16 * sub_centres, "sub_centres": sub_centres}
    mined = mine(centre, embedding, label, **mine_of, ranges=ranges)
    wanted = brute_force(centre[label[:2] * sub_centres], half, most=5 * sub_centres)
    wanted = (wanted // sub_centres).unique()
    assert torch.equal(mined[mined < 200], wanted[~torch.isin(wanted, label)])
    assert (mined >= 200).sum() == 8
    assert {203, 300} <= set(mine(centre, embedding, label, **mine_of).tolist())
