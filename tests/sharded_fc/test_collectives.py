"""The exchanges: rank order, uneven counts, labels that survive travelling as bits."""

import pytest
import torch

LABELS = [0, 1, 2**31, 2**62 + 12345, 0x7FF0000000000001]  # the last is a signalling NaN's bits


def exchange(counts, dtype):
    import torch.distributed as dist

    from sharded_fc.collectives import Layout, Ranks, gather_batch, scatter_gradient

    ranks = Ranks.of(None)
    layout = Layout(tuple(counts))
    own = counts[ranks.rank]
    embedding = torch.full((own, 3), float(ranks.rank), dtype=dtype)
    label = torch.tensor(LABELS[:own], dtype=torch.int64)
    numbers = torch.stack([label, -label], 1)
    everyone, gathered = gather_batch(ranks, layout, embedding, numbers)
    labels = gathered[:, 0]
    assert torch.equal(gathered[:, 1], -labels)
    gradient = torch.arange(layout.total, dtype=dtype).unsqueeze(1).expand(-1, 3) * (ranks.rank + 1)
    mine = scatter_gradient(ranks, layout, gradient.contiguous())
    assert (ranks.rank, ranks.size) == (dist.get_rank(), dist.get_world_size())
    owner = layout.owner(device=torch.device("cpu"))
    integers = ranks.exchange_integers([ranks.rank, -(2**40)], device=torch.device("cpu"))
    return everyone, labels, mine, owner, integers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [[5], [2, 2], [0, 4, 1], [3, 0, 0, 5]], ids=str)
def test_batches_arrive_in_rank_order_and_gradients_come_back_summed(ranks, counts, dtype):
    world, total = len(counts), sum(counts)
    owners = [rank for rank, count in enumerate(counts) for _ in range(count)]
    expected = torch.tensor(owners, dtype=dtype).unsqueeze(1).expand(-1, 3)
    labels = torch.tensor([value for count in counts for value in LABELS[:count]])
    summed = torch.arange(total, dtype=dtype) * (world * (world + 1) // 2)
    results = ranks(world).run(exchange, counts, dtype)
    for rank, (everyone, gathered, mine, owner, integers) in enumerate(results):
        assert torch.equal(everyone, expected)
        assert torch.equal(gathered, labels)
        start = sum(counts[:rank])
        assert torch.equal(mine[:, 0], summed[start : start + counts[rank]])
        assert mine.shape == (counts[rank], 3)
        assert owner.tolist() == owners
        assert integers == [[other, -(2**40)] for other in range(world)]


def subgroup_loss():
    import torch.distributed as dist

    from sharded_fc import ShardedHead
    from sharded_fc.margins import CosFace

    pair = dist.new_group([0, 2])
    if dist.get_rank() == 1:
        return None
    assert isinstance(pair, dist.ProcessGroup)
    head = ShardedHead(5, 4, margin=CosFace(0.3), scale=8.0, group=pair, learning_rate=0.1)
    return len(head.partition), head(torch.ones(1, 4), torch.tensor([4])).loss.item()


def test_a_head_lives_in_the_group_it_is_given(ranks):
    first, outside, second = ranks(3).run(subgroup_loss)
    assert outside is None
    assert (first[0], second[0]) == (3, 2)
    assert first[1] == second[1]


def alone(kind):
    from unittest import mock

    import torch.distributed as dist

    from sharded_fc import ShardedHead, collectives
    from sharded_fc.margins import CosFace
    from sharded_fc.pool import PoolHead, PoolView

    assert dist.get_world_size() == 1
    refused = mock.Mock(side_effect=AssertionError("a collective"))
    leaf = torch.ones(4, 8, requires_grad=True)
    label = torch.arange(4)
    options = {"margin": CosFace(0.3), "scale": 8.0}
    with mock.patch.multiple(collectives, _all_gather=refused, _reduce_scatter=refused):
        if kind == "centres":
            head = ShardedHead(9, 8, learning_rate=0.1, **options)
            head(leaf, label).loss.backward()
        else:
            pool = PoolHead(9, 8, slots=4, **options)
            view = PoolView(leaf, torch.ones(4, 8), label)
            pool(view, view).loss.backward()
    assert leaf.grad is not None
    return leaf.grad.abs().sum().item()


@pytest.mark.parametrize("kind", ["centres", "pool"])
def test_a_group_of_one_communicates_nothing(ranks, kind):
    assert ranks(1).run(alone, kind)[0] > 0.0
