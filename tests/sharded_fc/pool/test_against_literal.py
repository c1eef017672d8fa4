"""The sharded pool equals the literal one, step for step: losses, gradients, features, directory.

In float64 both sides differ only in the order of additions; assert_close's float64 defaults
(rtol 1e-7, atol 1e-7) are far above that and far below any wrong term. Features are written, not
computed, but normalised by other formulas.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sharded_fc.margins import ArcFace, CosFace
from tests.sharded_fc.pool.literal import LiteralPool
from tests.sharded_fc.pool.on_ranks import Step, draw_steps, join, train, whole


def assert_equals_literal(
    results: list[dict[str, Any]], steps: Sequence[Step], margin: tuple[str, float], *, masked: bool
) -> None:
    world = len(results)
    first = whole(results, step=-1)
    pool = LiteralPool(
        torch.stack([first["row0"], first["row1"]]), scale=8.0, margin=margin, masked=masked
    )
    for number, step in enumerate(steps):
        views = [join(step, which) for which in (0, 1)]
        leaves = [view[0].clone().requires_grad_() for view in views]
        loss = pool.step((leaves[0], *views[0][1:]), (leaves[1], *views[1][1:]))
        loss.backward()
        losses = [result["loss"][number] for result in results]
        assert all(torch.equal(other, losses[0]) for other in losses), "loss differs between ranks"
        torch.testing.assert_close(losses[0], loss.detach())
        for which, leaf in enumerate(leaves):
            ours = torch.cat([result["gradient"][number][which] for result in results])
            assert leaf.grad is not None
            # gradient_reduction="mean": the engine will divide by the world size.
            torch.testing.assert_close(ours, leaf.grad * world)
        found, directory = whole(results, step=number), pool.directory
        filled = len(directory.slot_of)
        label = dict(zip(directory.slot_of.values(), directory.slot_of.keys(), strict=True))
        wanted = [label.get(slot, -1) for slot in range(directory.slots)]
        assert found["label"].squeeze(1).tolist() == wanted
        assert found["next_row"].squeeze(1)[:filled].tolist() == directory.next_row
        for row in (0, 1):
            torch.testing.assert_close(found[f"row{row}"], pool.feature[row])


@pytest.mark.parametrize("unfilled", ["masked", "random"])
@pytest.mark.parametrize(
    ("counts", "slots", "num_classes", "chunk"),
    [
        ([(4, 4)], 7, 30, 3),  # few people come back: most steps evict
        ([(3, 2), (2, 4)], 7, 9, 2),  # most come back
        ([(2, 2), (3, 1), (1, 4)], 20, 22, None),  # long unfilled; slots do not divide evenly
        ([(5, 6), (4, 5)], 5, 30, 1),  # more newcomers than slots in every batch
        ([(0, 3), (4, 0)], 6, 12, 4),  # no first view on one rank, no second on the other
        ([(6, 6), (6, 6), (6, 6)], 3, 4, None),  # one slot a rank, many repeats
    ],
    ids=str,
)
def test_six_steps_equal_the_literal_pool(ranks, counts, slots, num_classes, chunk, unfilled):
    options = {
        "slots": slots,
        "num_classes": num_classes,
        "chunk_slots": chunk,
        "unfilled": unfilled,
    }
    steps = draw_steps(counts, steps=6, num_classes=num_classes)
    results = ranks(len(counts)).run(train, options, steps)
    assert_equals_literal(results, steps, ("cosface", 0.2), masked=unfilled == "masked")


def test_an_angular_margin_equals_the_literal_pool(ranks):
    """Small angles: beyond pi - m the margin is continued, which the literal one does not know."""
    steps = draw_steps([(4, 4), (3, 5)], steps=4, num_classes=9)
    steps = [
        [tuple((gallery + 0.1 * probe, gallery, label) for probe, gallery, label in views)
         for views in step]
        for step in steps
    ]  # fmt: skip
    results = ranks(2).run(train, {"margin": ArcFace(0.3)}, steps)
    assert_equals_literal(results, steps, ("arcface", 0.3), masked=True)


def test_the_loss_of_each_sample_adds_up_to_the_loss(ranks):
    """With everybody in the pool the loss is the mean of each view's samples, summed over views."""
    (step,) = draw_steps([(4, 3), (2, 5)], steps=1, num_classes=6)
    steps = [[tuple((*v[:2], torch.arange(len(v[2])) % 3) for v in views) for views in step]]
    results = ranks(2).run(train, {"slots": 6, "num_classes": 6}, steps)
    views = [4, 3], [2, 5]
    split = [r["sample_loss"][0].split(v) for r, v in zip(results, views, strict=True)]
    means = [torch.cat([part[which] for part in split]).mean() for which in (0, 1)]
    inside = results[0]["statistics"][0].margin["in_pool"]
    assert inside == 1.0, "the case is not the one that the test is about"
    torch.testing.assert_close(sum(means), results[0]["loss"][0])


def test_one_global_batch_on_any_number_of_ranks_gives_one_pool(ranks):
    """Directory and features to the bit; losses to the order of additions."""
    (step,) = draw_steps([(6, 6)], steps=1, num_classes=9, seed=4)
    (one, other) = step[0]
    found = []
    for counts in ([6], [2, 4], [1, 3, 2]):
        cut = [
            tuple(tuple(column.split(counts)[rank] for column in view) for view in (one, other))
            for rank in range(len(counts))
        ]
        results = ranks(len(counts)).run(train, {"unfilled": "random"}, [cut])
        found.append((results[0]["loss"][0], whole(results, step=0), results[0]["state"]))
    for loss, slots, state in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        assert all(torch.equal(value, found[0][1][name]) for name, value in slots.items())
        assert state == found[0][2]


def test_a_pool_of_everybody_is_a_softmax_over_the_last_features(ranks):
    """Everybody is in the pool; with one feature each, row 0, and no repeats in the last step."""
    num_classes, margin = 8, 0.2
    generator = torch.Generator().manual_seed(3)
    galleries = torch.randn(2, num_classes, 6, generator=generator, dtype=torch.float64)
    probes = torch.randn(2, num_classes, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(num_classes, generator=generator)
    views = [(probe, gallery, order) for probe, gallery in zip(probes, galleries, strict=True)]
    cut = [
        tuple(tuple(column.split([5, 3])[rank] for column in view) for view in views)
        for rank in range(2)
    ]
    options = {"slots": num_classes, "num_classes": num_classes, "margin": CosFace(margin)}
    results = ranks(2).run(train, options, [cut])
    wanted = torch.zeros((), dtype=torch.float64)
    for probe, gallery in ((probes[0], galleries[1]), (probes[1], galleries[0])):
        cosine = torch.nn.functional.cosine_similarity(probe[:, None], gallery[None], dim=2)
        logit = 8.0 * (cosine - margin * torch.eye(num_classes))
        # Twice: as nobody was seen again, both rows give the same.
        wanted += 2 * torch.nn.functional.cross_entropy(logit, torch.arange(num_classes))
    torch.testing.assert_close(results[0]["loss"][0], wanted)
