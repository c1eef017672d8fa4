"""The head's contract on one process and on ranks: what changes, when, and what is refused."""

import pytest
import torch

from sharded_fc import ShardedHead
from sharded_fc.margins import ArcFace, CosFace, NormFace
from tests.ranks import RankError
from tests.sharded_fc.on_ranks import (
    FLOAT64,
    collect,
    dense_head,
    draw_batches,
    gathered,
    join,
    make_head,
    train,
)

IN_FLOAT32 = {"dtype": torch.float32, "compute_dtype": torch.float32}
OPTIONS = {**FLOAT64, "num_classes": 7, "embedding_dim": 4, "margin": CosFace(0.35)}


def leaf_and_label(count=5, seed=0):
    ((embedding, label),) = draw_batches([count], num_classes=7, dim=4, seed=seed)[0]
    return embedding.requires_grad_(), label


def assert_bits_equal(one, other):
    for name in one:
        assert torch.equal(one[name].view(torch.int64), other[name].view(torch.int64)), name


# -- what changes, and when ------------------------------------------------------------------------


def test_a_call_without_backward_changes_nothing():
    head = make_head(OPTIONS)
    before, state = collect(head), head.state()
    head(*leaf_and_label())
    assert_bits_equal(collect(head), before)
    assert head.state() == state


def test_a_call_under_no_grad_changes_nothing_and_gives_the_same_loss():
    head = make_head(OPTIONS)
    before = collect(head)
    embedding, label = leaf_and_label()
    with torch.no_grad():
        output = head(embedding, label)
    assert not output.loss.requires_grad
    assert_bits_equal(collect(head), before)
    assert torch.equal(output.loss, head(embedding, label).loss.detach())


def test_a_backward_moves_rows_that_are_no_targets_too_and_counts_a_step():
    head = make_head(OPTIONS)
    before = collect(head)["centre"]
    head(*leaf_and_label()).loss.backward()
    assert (collect(head)["centre"] != before).any(1).all()
    assert head.state()["step"] == 1


def test_frozen_embeddings_still_train_the_rows():
    head = make_head(OPTIONS)
    before = collect(head)["centre"]
    embedding, label = leaf_and_label()
    head(embedding.detach(), label).loss.backward()
    assert (collect(head)["centre"] != before).any()


def test_the_learning_rate_of_the_moment_of_backward_is_used():
    slow, fast = make_head(OPTIONS), make_head(OPTIONS)
    slow.learning_rate = 0.0
    before = collect(slow)["centre"]
    for head in (slow, fast):
        output = head(*leaf_and_label())
        fast.learning_rate = 0.2
        output.loss.backward()
    assert torch.equal(collect(slow)["centre"], before)
    torch.testing.assert_close(
        collect(fast)["centre"], before - 0.2 * collect(fast)["momentum"], rtol=0, atol=1e-15
    )


# -- autograd --------------------------------------------------------------------------------------


def test_an_upstream_factor_multiplies_the_embedding_gradient_alone():
    plain, scaled = make_head(OPTIONS), make_head(OPTIONS)
    one, label = leaf_and_label()
    two, _ = leaf_and_label()
    plain(one, label).loss.backward()
    (3.0 * scaled(two, label).loss).backward()
    assert one.grad is not None
    torch.testing.assert_close(two.grad, 3.0 * one.grad)
    assert_bits_equal(collect(plain), collect(scaled))


def test_loss_weight_multiplies_loss_embedding_gradient_and_row_gradient():
    plain = make_head({**OPTIONS, "weight_decay": 0.0})
    weighted = make_head({**OPTIONS, "weight_decay": 0.0, "loss_weight": 0.25})
    one, label = leaf_and_label()
    two, _ = leaf_and_label()
    first, second = plain(one, label), weighted(two, label)
    first.loss.backward()
    second.loss.backward()
    assert one.grad is not None
    torch.testing.assert_close(second.loss, 0.25 * first.loss)
    torch.testing.assert_close(two.grad, 0.25 * one.grad)
    torch.testing.assert_close(collect(weighted)["momentum"], 0.25 * collect(plain)["momentum"])


def test_a_second_backward_of_one_pass_raises():
    head = make_head(OPTIONS)
    loss = head(*leaf_and_label()).loss
    loss.backward(retain_graph=True)
    after = collect(head)
    with pytest.raises(RuntimeError, match="already used"):
        loss.backward()
    assert_bits_equal(collect(head), after)


def test_a_backward_of_a_pass_older_than_the_last_commit_raises():
    head = make_head(OPTIONS)
    old = head(*leaf_and_label(seed=1)).loss
    head(*leaf_and_label(seed=2)).loss.backward()
    after = collect(head)
    with pytest.raises(RuntimeError, match="older than the head's last step"):
        old.backward()
    assert_bits_equal(collect(head), after)


def test_a_backward_of_a_pass_older_than_a_load_raises():
    head = make_head(OPTIONS)
    old = head(*leaf_and_label()).loss
    head.load(head.rows(), head.state())
    with pytest.raises(RuntimeError, match="older than the head's last step or load"):
        old.backward()


def test_a_list_of_pairs_is_one_batch():
    whole, listed = make_head(OPTIONS), make_head(OPTIONS)
    embedding, label = leaf_and_label(count=6)
    views = [piece.detach().requires_grad_() for piece in embedding.split([1, 0, 3, 2])]
    expected = whole(embedding, label).loss
    loss = listed(list(zip(views, label.split([1, 0, 3, 2]), strict=True))).loss
    expected.backward()
    loss.backward()
    assert torch.equal(loss, expected)
    gradients = [view.grad for view in views if view.grad is not None]
    assert embedding.grad is not None
    assert torch.equal(torch.cat(gradients), embedding.grad)
    assert_bits_equal(collect(whole), collect(listed))


def test_views_may_differ_in_dtype_and_get_gradients_in_their_own():
    head = make_head({**OPTIONS, "dtype": torch.float32, "compute_dtype": torch.float32})
    embedding, label = leaf_and_label(count=4)
    low = embedding[:2].detach().bfloat16().requires_grad_()
    full = embedding[2:].detach().float().requires_grad_()
    head([(low, label[:2]), (full, label[2:])]).loss.backward()
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16
    assert full.grad is not None
    assert full.grad.dtype == torch.float32


def test_autocast_around_the_call_changes_nothing():
    options = {**OPTIONS, "dtype": torch.float32, "compute_dtype": torch.float32}
    plain, cast = make_head(options), make_head(options)
    embedding, label = leaf_and_label()
    plain(embedding, label).loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast(embedding, label).loss.backward()
    assert torch.equal(collect(plain)["centre"], collect(cast)["centre"])


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 3), ("sum", 1)])
def test_gradient_reduction_names_what_the_engine_divides_by(ranks, reduction, factor):
    options = {**OPTIONS, "gradient_reduction": reduction}
    batches = draw_batches([2, 3, 1], num_classes=7, dim=4)
    results = ranks(3).run(train, options, batches)
    _, expected = dense_head(results, options).step(*join(batches[0]))
    gradient = torch.cat([result["gradient"][0] for result in results])
    torch.testing.assert_close(gradient, factor * expected)


# -- the commit rule -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad_rank", [0, 2])
def test_all_ranks_skip_together_when_one_embedding_is_bad(ranks, bad, bad_rank):
    good, spoilt = draw_batches([2, 2, 2], num_classes=7, dim=4, steps=2)
    spoilt[bad_rank][0][1, 2] = bad
    after_good = ranks(3).run(train, OPTIONS, [good])
    for before, after in zip(after_good, ranks(3).run(train, OPTIONS, [good, spoilt]), strict=True):
        assert_bits_equal(before["rows"], after["rows"])
        assert after["state"] == before["state"]
        assert not bool(after["statistics"][1]["committed"])
        assert int(after["statistics"][1]["bad_rank"]) == bad_rank
        assert not after["loss"][1].isfinite()
        # The backbone must not take a step from half a gradient: it sees the failure too.
        assert not after["gradient"][1].isfinite().any()


@pytest.mark.parametrize("bad_class", [0, 6])
def test_all_ranks_skip_together_when_one_row_is_bad_and_its_rank_is_named(ranks, bad_class):
    (batch,) = draw_batches([2, 2, 2], num_classes=7, dim=4)
    results = ranks(3).run(train, OPTIONS, [])
    blocks = [block for result in results for block in result["blocks"]]
    for first, tensors in blocks:
        if first <= bad_class < first + len(tensors["centre"]):
            tensors["centre"][bad_class - first, 1] = float("nan")
    spoilt = ranks(3).run(train, OPTIONS, [batch], blocks, results[0]["state"])
    for result in spoilt:
        assert_bits_equal(result["initial"], result["rows"])
        assert result["state"]["step"] == 0
        assert not bool(result["statistics"][0]["committed"])
        assert int(result["statistics"][0]["bad_rank"]) == (0 if bad_class == 0 else 2)


def test_training_goes_on_after_a_skipped_step_as_if_it_had_not_been(ranks):
    first, spoilt, second = draw_batches([2, 1], num_classes=7, dim=4, steps=3)
    spoilt[0][0][0, 0] = float("nan")
    with_bad = ranks(2).run(train, OPTIONS, [first, spoilt, second])
    without = ranks(2).run(train, OPTIONS, [first, second])
    for one, other in zip(with_bad, without, strict=True):
        assert_bits_equal(one["rows"], other["rows"])
        assert one["state"] == other["state"]
        assert torch.equal(one["loss"][2], other["loss"][1])


def test_zero_embeddings_and_zero_rows_are_guarded():
    head = make_head({**OPTIONS, "margin": ArcFace(0.5)})
    rows = collect(head)
    rows["centre"][[2, 3]] = 0.0
    head.load([(0, rows)], head.state())
    embedding = torch.randn(4, 4, dtype=torch.float64)
    embedding[0] = 0.0
    embedding.requires_grad_()
    output = head(embedding, torch.tensor([1, 2, 4, 5]))
    output.loss.backward()
    assert bool(output.statistics.committed)
    assert output.loss.isfinite()
    assert embedding.grad is not None
    assert not embedding.grad[0].any()  # no direction, so no gradient
    assert embedding.grad[1:].isfinite().all()
    after = collect(head)
    assert not after["centre"][[2, 3]].any()
    assert after["centre"].isfinite().all()
    assert after["momentum"].isfinite().all()


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_the_length_of_embeddings_does_not_matter_even_where_its_square_over_or_underflows(length):
    head = make_head({**OPTIONS, "dtype": torch.float32, "compute_dtype": torch.float32})
    embedding, label = leaf_and_label()
    expected = head(embedding.float(), label).loss
    loss = head(embedding.float() * length, label).loss
    if length < 1e-12:  # documented: shorter than this has no direction
        assert loss.isfinite()
    else:
        torch.testing.assert_close(loss, expected)


# -- refusals --------------------------------------------------------------------------------------


def label_out_of_range(value):
    import torch.distributed as dist

    head = make_head(OPTIONS)
    label = torch.tensor([1, value if dist.get_rank() == 1 else 2])
    try:
        head(torch.randn(2, 4), label)
    except ValueError as error:
        message = str(error)
    else:
        raise AssertionError("not refused")
    head(torch.randn(2, 4), torch.tensor([1, 2])).loss.backward()  # the group is still sound
    return message


@pytest.mark.parametrize("value", [-1, 7, 2**40])
def test_a_label_out_of_range_on_one_rank_is_refused_on_all_and_hangs_none(ranks, value):
    messages = ranks(3).run(label_out_of_range, value)
    for message in messages:
        assert message.startswith(f"rank 1 passed label {value}; labels must be in [0, 7)")


def test_embeddings_of_another_width_are_refused_with_the_rank():
    head = make_head(OPTIONS)
    with pytest.raises(ValueError, match=r"rank 0 passed 2 embeddings .* not 4 wide"):
        head(torch.randn(2, 5), torch.tensor([0, 1]))


def test_a_step_without_any_sample_is_refused(ranks):
    with pytest.raises(RankError, match="no rank passed a sample"):
        ranks(2).run(train, OPTIONS, draw_batches([0, 0], num_classes=7, dim=4))


def test_more_ranks_than_classes_are_refused(ranks):
    with pytest.raises(RankError, match=r"2 classes over 3 ranks .* use at most 2 ranks"):
        ranks(3).run(train, {**OPTIONS, "num_classes": 2}, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "a softmax needs at least 2"),
        ({"embedding_dim": 0}, "use at least 1"),
        ({"scale": 0.0}, "use a positive number"),
        ({"scale": float("inf")}, "use a positive number"),
        ({"sub_centres": 0}, "use at least 1"),
        ({"clip_norm": 1.0}, "never holds them all; use clip_row_norm"),
        ({"clip_row_norm": 0.0}, "use a positive length"),
        ({"class_margin": torch.ones(6)}, "use one number for each of 7 classes"),
        ({"margin": NormFace(), "class_margin": torch.ones(7)}, "drop class_margin"),
        ({"learning_rate_ratios": [(0, 3, 0.0), (2, 5, 1.0)]}, "do not overlap"),
        ({"learning_rate_ratios": [(0, 8, 0.0)]}, r"within \[0, 7\)"),
        ({"learning_rate_ratios": [(0, 3, -1.0)]}, r"use 0 \(frozen\) or more"),
        ({"chunk_classes": 0}, "or None to choose"),
        ({"learning_rate": -0.1}, "use 0 or more"),
        ({"learning_rate": float("nan")}, "use 0 or more"),
        ({"dtype": torch.int8}, "rows are kept in float32, float16, bfloat16 or float64"),
        ({"compute_dtype": torch.float16}, "rows in float64 go with .* compute_dtype float64"),
        ({"dtype": torch.float32}, "compute_dtype torch.float64; use float32, float16 or bfloat16"),
        (
            {**IN_FLOAT32, "state_dtype": torch.float16},
            "state_dtype torch.float16; use float32 or bfloat16",
        ),
    ],
)
def test_numbers_no_head_can_have_are_refused_with_what_to_use(changes, message):
    with pytest.raises(ValueError, match=message):
        make_head({**OPTIONS, **changes})


def test_a_call_without_labels_or_with_nothing_is_refused():
    head = make_head(OPTIONS)
    with pytest.raises(ValueError, match="needs labels"):
        head(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"pass head\(embedding, label\)"):
        head([])


# -- values ----------------------------------------------------------------------------------------


def test_first_loss_of_random_unit_vectors_is_the_papers_expectation():
    """Margin term + ln C + s^2 / (2 d), methods.md section 4; its own simulation is 0.25 off."""
    torch.manual_seed(0)
    head = ShardedHead(20_000, 512, margin=CosFace(0.4), scale=64.0, learning_rate=0.1)
    with torch.no_grad():
        loss = head(torch.randn(1024, 512), torch.randint(20_000, (1024,))).loss
    expected = 64 * 0.4 + torch.tensor(20_000.0).log() + 64**2 / (2 * 512)
    assert abs(loss - expected) < 0.5


def test_rotating_everything_changes_nothing_and_the_gradient_is_tangent():
    head, turned = make_head(OPTIONS), make_head(OPTIONS)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    rows = collect(turned)
    rows |= {name: rows[name] @ rotation for name in ("centre", "momentum")}
    turned.load([(0, rows)], turned.state())
    embedding, label = leaf_and_label()
    loss = head(embedding, label).loss
    torch.testing.assert_close(turned(embedding.detach() @ rotation, label).loss, loss)
    loss.backward()
    assert embedding.grad is not None
    # Exactly zero but for the rounding of four products of size about 1.
    assert ((embedding.grad * embedding).sum(1).abs() < 1e-14).all()


def test_a_head_of_two_hundred_steps_learns_its_identities(ranks):
    centres = torch.eye(8, dtype=torch.float64)[:7]
    batches = draw_batches([4, 3], num_classes=7, dim=8, steps=200)
    batches = [
        [(centres[label] + 0.1 * embedding, label) for embedding, label in batch]
        for batch in batches
    ]
    results = ranks(2).run(train, {**OPTIONS, "embedding_dim": 8, "scale": 8.0}, batches)
    assert results[0]["loss"][-1] < 0.1 * results[0]["loss"][0]
    learnt = torch.nn.functional.normalize(gathered(results, "centre"))
    assert torch.equal((centres @ learnt.t()).argmax(1), torch.arange(7))
