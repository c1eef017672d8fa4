"""The sharded head equals the dense one: losses, gradients, three steps of rows and momentum.

In float64 both sides differ only in the order of additions; assert_close's float64 defaults
(rtol 1e-7, atol 1e-7) are far above that and far below any wrong term.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharded_fc.margins import ArcFace, CosFace
from tests.sharded_fc.on_ranks import FLOAT64, dense_head, draw_batches, gathered, join, train

MARGINS = [CosFace(0.35), ArcFace(0.5), ArcFace(0.5, gradient="straight_through")]


def assert_equals_dense(results, options, batches):
    dense = dense_head(results, options)
    for step, batch in enumerate(batches):
        loss, gradient = dense.step(*join(batch))
        losses = [result["loss"][step] for result in results]
        assert all(torch.equal(other, losses[0]) for other in losses), "loss differs between ranks"
        torch.testing.assert_close(losses[0], loss)
        ours = torch.cat([result["gradient"][step] for result in results])
        # gradient_reduction="mean": the engine will divide by the world size.
        torch.testing.assert_close(ours, gradient * len(results))
    torch.testing.assert_close(gathered(results, "centre"), dense.centre.detach())
    torch.testing.assert_close(gathered(results, "momentum"), dense.momentum)


@pytest.mark.parametrize("margin", MARGINS, ids=["cosface", "arcface", "straight-through"])
@pytest.mark.parametrize(
    ("counts", "num_classes", "chunk"),
    [
        ([6], 11, 4),
        ([3, 5], 11, 3),
        ([4, 4, 4], 10, None),
        ([2, 3, 1, 4], 13, 2),
        ([2, 2, 2], 3, 1),  # one class a rank
        ([0, 5], 9, 2),  # nothing on rank 0
        ([4, 0, 0, 1], 9, 1),
    ],
    ids=str,
)
def test_three_steps_equal_dense_softmax_and_sgd(ranks, counts, num_classes, chunk, margin):
    options = {
        **FLOAT64,
        "num_classes": num_classes,
        "embedding_dim": 5,
        "margin": margin,
        "chunk_classes": chunk,
    }
    batches = draw_batches(counts, num_classes=num_classes, dim=5, steps=3)
    results = ranks(len(counts)).run(train, options, batches)
    assert_equals_dense(results, options, batches)


@pytest.mark.parametrize("owner", [0, 1, 2])
def test_all_labels_on_one_rank_equal_dense(ranks, owner):
    options = {**FLOAT64, "num_classes": 10, "embedding_dim": 4, "margin": ArcFace(0.5)}
    batches = draw_batches([3, 3, 3], num_classes=10, dim=4, steps=3)
    first = [0, 4, 7][owner]
    batches = [[(e, first + label % 3) for e, label in batch] for batch in batches]
    assert_equals_dense(ranks(3).run(train, options, batches), options, batches)


def test_the_last_class_and_duplicate_labels_equal_dense(ranks):
    options = {**FLOAT64, "num_classes": 7, "embedding_dim": 4, "margin": CosFace(0.35)}
    batches = draw_batches([4, 4], num_classes=7, dim=4, steps=3)
    batches = [[(e, torch.full_like(label, 6)) for e, label in batch] for batch in batches]
    assert_equals_dense(ranks(2).run(train, options, batches), options, batches)


def test_steps_without_momentum_equal_dense(ranks):
    options = {
        **FLOAT64,
        "num_classes": 7,
        "embedding_dim": 4,
        "margin": CosFace(0.35),
        "momentum": 0.0,
    }
    batches = draw_batches([4, 2], num_classes=7, dim=4, steps=3)
    results = ranks(2).run(train, options, batches)
    dense = dense_head(results, options)
    for batch in batches:
        dense.step(*join(batch))
    assert set(results[0]["rows"]) == {"centre", "wins"}
    torch.testing.assert_close(gathered(results, "centre"), dense.centre.detach())


@given(data=st.data())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_partition_batch_and_chunk_equals_dense(ranks, data):
    world = data.draw(st.integers(1, 4), label="world")
    num_classes = data.draw(st.integers(max(2, world), 20), label="classes")
    counts = data.draw(
        st.lists(st.integers(0, 5), min_size=world, max_size=world).filter(any), label="counts"
    )
    options = {
        **FLOAT64,
        "num_classes": num_classes,
        "embedding_dim": data.draw(st.integers(2, 6), label="dim"),
        "margin": data.draw(st.sampled_from(MARGINS), label="margin"),
        "scale": data.draw(st.sampled_from([1.0, 16.0, 64.0]), label="scale"),
        "chunk_classes": data.draw(st.none() | st.integers(1, 25), label="chunk"),
        "weight_decay": data.draw(st.sampled_from([0.0, 0.1]), label="weight decay"),
    }
    batches = draw_batches(
        counts, num_classes=num_classes, dim=options["embedding_dim"], steps=2, seed=world
    )
    assert_equals_dense(ranks(world).run(train, options, batches), options, batches)


def test_statistics_are_global_and_equal_on_all_ranks(ranks):
    options = {**FLOAT64, "num_classes": 9, "embedding_dim": 4, "margin": ArcFace(0.5)}
    batches = draw_batches([4, 1, 3], num_classes=9, dim=4)
    results = ranks(3).run(train, options, batches)
    embedding, label = join(batches[0])
    centre = torch.cat([result["initial"]["centre"] for result in results])
    cosine = torch.nn.functional.normalize(embedding) @ torch.nn.functional.normalize(centre).t()
    own = torch.nn.functional.one_hot(label, 9).bool()
    for result in results:
        statistics = result["statistics"][0]
        torch.testing.assert_close(statistics["target_cosine"], cosine[own].mean())
        hardest = cosine.masked_fill(own, -2).amax(1).mean()
        torch.testing.assert_close(statistics["hardest_negative_cosine"], hardest)
        assert torch.equal(statistics["loss"], results[0]["loss"][0])
        assert bool(statistics["committed"])
        assert int(statistics["bad_rank"]) == -1


def test_permuting_the_ranks_batches_changes_nothing_but_rounding(ranks):
    options = {**FLOAT64, "num_classes": 9, "embedding_dim": 4, "margin": CosFace(0.35)}
    batches = draw_batches([4, 1, 3], num_classes=9, dim=4, steps=2)
    straight = ranks(3).run(train, options, batches)
    turned = ranks(3).run(train, options, [batch[1:] + batch[:1] for batch in batches])
    torch.testing.assert_close(turned[0]["loss"], straight[0]["loss"])
    torch.testing.assert_close(gathered(turned, "centre"), gathered(straight, "centre"))
