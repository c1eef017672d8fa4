"""What a single visit changes and when: nothing before a backward, all ranks or none.

As `test_head` has it for two visits; here gradients are formed before anyone knows whether all is
finite.
"""

import math

import pytest
import torch

from tests.sharded_fc.on_ranks import FLOAT64, collect, make_head, train
from tests.sharded_fc.test_single_visit import (
    ALL,
    NONE,
    OPTIONS,
    SOME,
    batches_of,
    gradient_of,
    leaf_and_label,
)


@pytest.mark.parametrize("kept_bytes", [NONE, SOME, ALL])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_embedding_changes_nothing_on_any_rank(ranks, bad, kept_bytes):
    options = {**FLOAT64, **OPTIONS, "kept_bytes": kept_bytes}
    good, spoilt, more = batches_of([2, 3])
    spoilt[1][0][0, 0] = bad
    with_bad = ranks(2).run(train, options, [good, spoilt, more])
    without = ranks(2).run(train, options, [good, more])
    for one, other in zip(with_bad, without, strict=True):
        assert not bool(one["statistics"][1]["committed"])
        assert int(one["statistics"][1]["bad_rank"]) == 1
        assert one["gradient"][1].isnan().all()
        assert one["state"] == other["state"]
        torch.testing.assert_close(one["rows"], other["rows"], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kept_bytes", [NONE, SOME, ALL])
def test_an_infinity_in_one_row_of_one_rank_stops_all(ranks, kept_bytes):
    options = {**FLOAT64, **OPTIONS, "kept_bytes": kept_bytes}
    results = ranks(3).run(train, options, [])
    blocks = [block for result in results for block in result["blocks"]]
    blocks[-1][1]["centre"][0, 0] = math.inf
    state = results[0]["state"]
    after = ranks(3).run(train, options, batches_of([2, 1, 2], steps=1), blocks, state)
    for result in after:
        assert not bool(result["statistics"][0]["committed"])
        assert int(result["statistics"][0]["bad_rank"]) == 2
        assert result["gradient"][0].isnan().all()
        assert result["state"] == state
        torch.testing.assert_close(result["rows"]["centre"], result["initial"]["centre"])


def test_an_infinity_in_the_upstream_gradient_reaches_the_embeddings_alone():
    plain, infinite = make_head(OPTIONS), make_head(OPTIONS)
    one, other = leaf_and_label(), leaf_and_label()
    plain(*one).loss.backward()
    (infinite(*other).loss * math.inf).backward()
    assert not gradient_of(other[0]).isfinite().any()
    torch.testing.assert_close(collect(plain), collect(infinite), rtol=0.0, atol=0.0)


def test_a_second_backward_or_one_of_an_older_pass_raises_and_changes_nothing():
    head = make_head(OPTIONS)
    old, loss = head(*leaf_and_label()).loss, head(*leaf_and_label(seed=1)).loss
    loss.backward(retain_graph=True)
    after, state = collect(head), head.state()
    for used in (loss, old):
        with pytest.raises(RuntimeError, match="already used, or is older"):
            used.backward()
    assert head.state() == state
    torch.testing.assert_close(collect(head), after, rtol=0.0, atol=0.0)


def test_two_views_are_one_batch():
    whole, listed = make_head(OPTIONS), make_head(OPTIONS)
    embedding, label = leaf_and_label()
    views = [piece.detach().requires_grad_() for piece in embedding.split([2, 3])]
    whole(embedding, label).loss.backward()
    listed(list(zip(views, label.split([2, 3]), strict=True))).loss.backward()
    assert torch.equal(torch.cat([gradient_of(view) for view in views]), gradient_of(embedding))
    torch.testing.assert_close(collect(whole), collect(listed), rtol=0.0, atol=0.0)


def test_the_loss_weight_of_the_call_multiplies_everything():
    """A later one belongs to a later call."""
    options = {**FLOAT64, **OPTIONS, "weight_decay": 0.0}
    plain, weighted = make_head(options), make_head({**options, "loss_weight": 0.25})
    (one, label), (other, _) = leaf_and_label(), leaf_and_label()
    first, second = plain(one, label), weighted(other, label)
    weighted.loss_weight = 100.0
    first.loss.backward()
    second.loss.backward()
    torch.testing.assert_close(second.loss, 0.25 * first.loss)
    torch.testing.assert_close(gradient_of(other), 0.25 * gradient_of(one))
    torch.testing.assert_close(collect(weighted)["momentum"], 0.25 * collect(plain)["momentum"])
    bias = weighted.state()["bias_momentum"]
    assert bias == pytest.approx(0.25 * plain.state()["bias_momentum"], rel=1e-12)
