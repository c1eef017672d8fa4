"""The exchanges that capacity predicts, against what heads on two and three ranks really pass."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from sharded_fc.capacity import HeadShape, PoolShape, head_traffic, pool_traffic
from sharded_fc.sampling import Sampling
from tests.ranks import RankPools

CLASSES, DIM, OWN = 23, 8, 4


def given(kind: str, options: dict[str, Any]) -> list[tuple[str, int]]:
    """(collective, bytes of the tensor passed in) of one step, in order."""
    from sharded_fc import ShardedHead, collectives
    from sharded_fc.margins import CosFace
    from sharded_fc.pool import PoolHead, PoolView

    seen: list[tuple[str, int]] = []
    gather, scatter = collectives._all_gather, collectives._reduce_scatter

    def watched_gather(out, tensor, **rest):
        seen.append(("all_gather", tensor.nbytes))
        return gather(out, tensor, **rest)

    def watched_scatter(out, tensor, **rest):
        seen.append(("reduce_scatter", tensor.nbytes))
        return scatter(out, tensor, **rest)

    extras = options.pop("extras", {})
    own = options.pop("own", OWN)
    embedding = torch.randn(own, DIM).requires_grad_()
    label = torch.arange(own) + dist.get_rank() * own

    def sharded():
        head = ShardedHead(
            CLASSES, DIM, margin=CosFace(0.3), scale=16.0, learning_rate=0.1, **options
        )
        return lambda: head(embedding, label, **extras)

    def pool():
        head = PoolHead(CLASSES, DIM, slots=11, margin=CosFace(0.3), scale=16.0)
        view = PoolView(torch.randn(own, DIM).requires_grad_(), embedding, label)
        return lambda: head(view, view)

    call = {"head": sharded, "pool": pool}[kind]()
    collectives._all_gather, collectives._reduce_scatter = watched_gather, watched_scatter
    try:
        call().loss.backward()
    finally:
        collectives._all_gather, collectives._reduce_scatter = gather, scatter
    return seen


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "weighted": ({"extras": {"sample_weight": torch.ones(OWN)}}, {"weighted": True}),
    "ranged": (
        {"extras": {"class_range": torch.tensor([[0, CLASSES]] * OWN)}},
        {"ranged": True},
    ),
    "class margins": ({"class_margin": torch.full((CLASSES,), 0.2)}, {"class_margins": True}),
    "hard negatives": (
        {"sampling": Sampling(rate=0.9, hard_share=0.9)},
        {"sampling": Sampling(rate=0.9, hard_share=0.9)},
    ),
    "float64": (
        {"dtype": torch.float64, "compute_dtype": torch.float64},
        {"dtype": torch.float64, "operands": torch.float64},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("world", [2, 3])
def test_the_heads_exchanges_are_those_predicted(ranks: RankPools, name: str, world: int):
    options, changes = VARIANTS[name]
    shape = HeadShape(
        num_classes=CLASSES,
        embedding_dim=DIM,
        batch=OWN * world,
        world_size=world,
        on_cpu=True,
        **changes,
    )
    expected = [(each.kind, each.given_bytes) for each in head_traffic(shape)]
    for seen in ranks(world).run(given, "head", options):
        assert seen == expected


def test_the_pools_exchanges_are_those_predicted(ranks: RankPools):
    shape = PoolShape(slots=11, embedding_dim=DIM, batch=OWN * 2 * 2, world_size=2, on_cpu=True)
    expected = sorted((each.kind, each.given_bytes) for each in pool_traffic(shape))
    for seen in ranks(2).run(given, "pool", {}):
        # Samples in the pool send no nearest cosines: the sums are at most what is predicted.
        assert len(seen) == len(expected)
        for (kind, found), (wanted_kind, most) in zip(sorted(seen), expected, strict=True):
            assert kind == wanted_kind
            assert found <= most


def uneven(counts: list[int]) -> list[int]:
    """Bytes passed in of one step in which ranks bring so many samples."""
    return [size for _, size in given("head", {"own": counts[dist.get_rank()]})]


def test_all_ranks_send_as_much_as_the_one_with_most_samples(ranks: RankPools):
    shape = HeadShape(
        num_classes=CLASSES, embedding_dim=DIM, batch=7, world_size=3, on_cpu=True, most_own=4
    )
    expected = [each.given_bytes for each in head_traffic(shape)]
    for seen in ranks(3).run(uneven, [4, 1, 2]):
        assert seen == expected


def test_a_ring_moves_what_the_others_have():
    shape = HeadShape(num_classes=10, embedding_dim=4, batch=8, world_size=4, on_cpu=True)
    moved = {each.name: each.moved_bytes(4) for each in head_traffic(shape)}
    assert moved["embeddings"] == 3 * 2 * (4 + 4) * 4  # three ranks' two rows of 4 + 4 columns
    assert moved["embedding gradients"] == 3 / 4 * (8 * 4 * 4)
