"""The pool's head keeps the contract: what commits, what raises, what a checkpoint carries."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sharded_fc.margins import AdaFace, CosFace, MVSoftmax, PlainSoftmax
from sharded_fc.pool import PoolView
from tests.sharded_fc.pool.on_ranks import (
    Step,
    call,
    content,
    draw_steps,
    make_pool,
    train,
    whole,
)

COUNTS = [(4, 4), (3, 5)]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def before_and_after(
    options: dict[str, Any], steps: list[Step], how: str
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """The pool around the last step, which is called as `how` says, and its states."""
    pool = make_pool(options)
    for step in steps[:-1]:
        call(pool, step)[0].loss.backward()
    before, state = content(pool), pool.state()
    if how == "no_grad":
        with torch.no_grad():
            call(pool, steps[-1])
    else:
        output, _ = call(pool, steps[-1])
        if how == "backward":
            output.loss.backward()
    return before, content(pool), state, pool.state()


@pytest.mark.parametrize("how", ["no_grad", "no backward"])
def test_a_call_without_a_backward_changes_no_bit(ranks, how: str):
    """Both passes have then written features and taken them out again."""
    steps = draw_steps(COUNTS, steps=4)
    for before, after, *states in ranks(2).run(before_and_after, {}, steps, how):
        assert equal(before, after)
        assert states[0] == states[1]


def test_a_backward_commits_the_second_pass_alone(ranks):
    """The first view's features are in the pool afterwards, none of the second's."""
    steps = draw_steps([(2, 2)], steps=1)
    ((_, after, *_),) = ranks(1).run(before_and_after, {}, steps, "backward")
    ((_, gallery, label), _) = steps[0][0]
    assert after["label"].squeeze(1).tolist() == [*label.tolist(), *[-1] * 5]
    wanted = torch.nn.functional.normalize(gallery, dim=1)
    torch.testing.assert_close(after["row0"][:2], wanted)
    assert not after["row0"][2:].any()
    assert not after["row1"].any()


def skipping(steps: list[Step], where: str) -> dict[str, Any]:
    """One good step, then one with a bad number on rank 1."""
    pool = make_pool({})
    call(pool, steps[0])[0].loss.backward()
    before, state = content(pool), pool.state()
    place = {"probe": 0, "gallery": 1}[where]
    steps[1][1][1][place][2, 3] = torch.nan
    output, leaves = call(pool, steps[1])
    output.loss.backward()
    skipped = equal(before, content(pool)) and state == pool.state()
    call(pool, steps[2])[0].loss.backward()
    return {
        "skipped": skipped,
        "gradients": [leaf.grad for leaf in leaves],
        "statistics": output.statistics,
        "step": pool.state()["step"],
    }


@pytest.mark.parametrize("where", ["probe", "gallery"])
def test_a_bad_number_on_one_rank_changes_the_pool_on_none(ranks, where: str):
    for found in ranks(2).run(skipping, draw_steps(COUNTS, steps=3), where):
        assert found["skipped"]
        assert all(gradient.isnan().all() for gradient in found["gradients"])
        assert not found["statistics"].committed
        assert found["statistics"].bad_rank == 1
        assert found["step"] == 2


def test_a_second_backward_of_a_call_and_one_of_an_older_call_raise():
    pool = make_pool({})
    steps = draw_steps([(4, 4)], steps=2)
    output, _ = call(pool, steps[0])
    older, _ = call(pool, steps[0])
    output.loss.backward(retain_graph=True)
    for stale in (output, older):
        with pytest.raises(RuntimeError, match="call the head again"):
            stale.loss.backward()


def test_an_upstream_factor_and_the_loss_weight_multiply_the_gradient():
    steps = draw_steps([(4, 5)], steps=1)
    plain, leaves = call(make_pool({}), steps[0])
    plain.loss.backward()
    weighted, others = call(make_pool({"loss_weight": 3.0}), steps[0])
    (2 * weighted.loss).backward()
    torch.testing.assert_close(weighted.loss, 3 * plain.loss)
    for leaf, other in zip(leaves, others, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(other.grad, 6 * leaf.grad)


def test_the_gradient_is_that_of_the_loss():
    """Central differences in float64, in every kind of sample: in the pool and outside."""
    steps = draw_steps([(5, 5)], steps=2, num_classes=12, seed=2)
    pools = [make_pool({"margin": MVSoftmax(0.2, hardness=1.3), "num_classes": 12}) for _ in "ab"]
    for pool in pools:
        call(pool, steps[0])[0].loss.backward()

    def loss(first: Tensor, second: Tensor) -> Tensor:
        with torch.no_grad():
            one, other = steps[1][0]
            return pools[1](PoolView(first, *one[1:]), PoolView(second, *other[1:])).loss

    output, leaves = call(pools[0], steps[1])
    inside = output.statistics.margin["in_pool"]
    assert 0.2 < inside < 1.0, "the case is not the one that the test is about"
    output.loss.backward()
    for which, leaf in enumerate(leaves):
        for place in ((0, 0), (2, 3), (4, 5)):
            moved = [[each.detach().clone() for each in leaves] for _ in range(2)]
            moved[0][which][place] += 1e-6
            moved[1][which][place] -= 1e-6
            slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad[place], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_pool_saved_on_two_ranks_goes_on_alike_on_any_number(ranks, world: int):
    """Four steps on two ranks, or two there and two elsewhere: one pool to the bit."""
    options = {"unfilled": "random"}
    steps = draw_steps(COUNTS, steps=4)
    through = ranks(2).run(train, options, steps)
    half = ranks(2).run(train, options, steps[:2])
    blocks = [block for result in half for block in result["blocks"]]
    cuts = {1: [[7], [9]], 2: [[4, 3], [4, 5]], 3: [[1, 2, 4], [3, 3, 3]]}[world]
    recut = [
        [
            tuple(
                tuple(
                    torch.cat([views[which][column] for views in step]).split(cut)[rank]
                    for column in range(3)
                )
                for which, cut in enumerate(cuts)
            )
            for rank in range(world)
        ]
        for step in steps[2:]
    ]
    again = ranks(world).run(train, options, recut, blocks, half[0]["state"])
    assert again[0]["state"] == through[0]["state"]
    assert equal(whole(again, step=1), whole(through, step=3))
    for mine, theirs in zip(again[0]["loss"], through[0]["loss"][2:], strict=True):
        torch.testing.assert_close(mine, theirs)


def load_wrongly(how: str) -> str:
    from tests.sharded_fc.pool.on_ranks import make_pool as make

    saved = make({})
    blocks, state = list(saved.rows(block=2)), saved.state()
    if torch.distributed.get_rank() == 1:
        if how == "gap":
            blocks = blocks[:-1]
        elif how == "no directory":
            blocks = [(first, {k: v for k, v in b.items() if "row" in k}) for first, b in blocks]
            blocks = [
                (first, {k: v for k, v in b.items() if k != "next_row"}) for first, b in blocks
            ]
        elif how == "other slots":
            state = state | {"slots": 9}
        elif how == "width":
            blocks = [(first, b | {"row1": b["row1"][:, 1:]}) for first, b in blocks]
        else:
            blocks = [(first, {k: v for k, v in b.items() if k != "row0"}) for first, b in blocks]
    with pytest.raises(ValueError, match=r"pool|block|slots") as caught:
        saved.load(blocks, state)
    return str(caught.value)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("gap", "no block holds slots"),
        ("no directory", "no directory"),
        ("other slots", "has slots 9, this one 7"),
        ("width", "features 6 wide"),
        ("no features", "no row0; load a checkpoint of a pool"),
    ],
)
def test_a_checkpoint_that_does_not_fit_one_rank_is_refused_on_all(ranks, how: str, told: str):
    messages = ranks(2).run(load_wrongly, how)
    assert told in messages[1]
    assert "rank 1 could not load" in messages[0]


def pass_wrongly(what: str) -> str:
    from tests.sharded_fc.pool.on_ranks import make_pool as make

    one, other = draw_steps(COUNTS, steps=1)[0][torch.distributed.get_rank()]
    if torch.distributed.get_rank() == 1:
        if what == "label":
            one[2][0] = 30
        else:
            other = (other[0], other[1][:-1], other[2])
    with pytest.raises(ValueError, match="rank 1 passed") as caught:
        make({})(PoolView(*one), PoolView(*other))
    return str(caught.value)


@pytest.mark.parametrize(
    ("what", "told"), [("label", "label 30"), ("shape", "4 embeddings with 5 labels")]
)
def test_what_is_wrong_on_one_rank_raises_on_all(ranks, what: str, told: str):
    for message in ranks(2).run(pass_wrongly, what):
        assert told in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"slots": 1}, "at least 2"),
        ({"slots": 31}, "31 slots for 30 identities"),
        ({"world_size": 8}, "7 slots over 8 ranks"),
        ({"margin": AdaFace()}, "AdaFace needs more than a cosine"),
        ({"margin": PlainSoftmax(), "scale": 1.0}, "PlainSoftmax needs more than a cosine"),
        ({"scale": 0.0}, "scale"),
        ({"unfilled": "empty"}, "'masked' or 'random'"),
        ({"chunk_slots": 0}, "chunk_slots 0"),
        ({"gradient_reduction": "max"}, "'mean' or 'sum'"),
        ({"dtype": torch.float16}, "float32 or float64"),
        ({"num_classes": 1}, "num_classes 1"),
        ({"embedding_dim": 0}, "embedding_dim 0"),
    ],
    ids=str,
)
def test_a_pool_that_cannot_be_is_refused(changes: dict[str, Any], told: str):
    from sharded_fc.pool.arguments import check_arguments

    usual = {
        "num_classes": 30,
        "embedding_dim": 6,
        "slots": 7,
        "world_size": 2,
        "margin": CosFace(0.2),
        "scale": 8.0,
        "unfilled": "masked",
        "chunk_slots": None,
        "gradient_reduction": "mean",
        "dtype": torch.float32,
    }
    with pytest.raises(ValueError, match=told):
        check_arguments(**(usual | changes))


def test_random_slots_are_unit_directions_that_do_not_depend_on_the_world(ranks):
    found = [
        whole(ranks(world).run(train, {"unfilled": "random"}, []), step=-1) for world in (1, 3)
    ]
    assert equal(*found)
    for row in ("row0", "row1"):
        torch.testing.assert_close(found[0][row].norm(dim=1), torch.ones(7, dtype=torch.float64))
    assert (found[0]["row0"] * found[0]["row1"]).sum(1).abs().max() < 0.99


def test_statistics_tell_who_was_in_the_pool_and_how_full_it_is():
    steps = draw_steps([(4, 4)], steps=1, num_classes=30, seed=1)
    one, other = steps[0][0]
    label = torch.tensor([1, 2, 3, 4])
    pool = make_pool({})
    views = PoolView(*one[:2], label), PoolView(*other[:2], torch.tensor([1, 2, 8, 9]))
    statistics = pool(*views).statistics
    assert statistics.margin["in_pool"] == 0.5
    torch.testing.assert_close(statistics.margin["filled"].item(), 4 / 7)
    assert statistics.margin["outside_loss"] > 0
    assert statistics.committed
    assert statistics.bad_rank == -1


def test_float32_stays_within_its_rounding_of_float64(ranks):
    """Logits of size 8 have an error of some 1e-6 each; the loss of 8 terms is of size 10."""
    steps = draw_steps(COUNTS, steps=3)
    (wide, _), (narrow, _) = (
        ranks(2).run(train, {"dtype": dtype}, steps) for dtype in (torch.float64, torch.float32)
    )
    for ours, theirs in zip(narrow["loss"], wide["loss"], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
