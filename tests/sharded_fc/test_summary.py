"""Wins and lengths of rows: counted on commit, saved with the rows, summed over ranks."""

import pytest
import torch

from sharded_fc.margins import ArcFace
from tests.sharded_fc.on_ranks import FLOAT64, draw_batches, gathered, make_head, train

OPTIONS = {**FLOAT64, "num_classes": 9, "embedding_dim": 4, "margin": ArcFace(0.5)}


def train_and_summarise(options, batches):
    import torch.distributed as dist

    head = make_head(options)
    for batch in batches:
        embedding, label = batch[dist.get_rank()]
        head(embedding, label).loss.backward()
    return head.summary()


@pytest.mark.parametrize("counts", [[6], [3, 0, 4]], ids=str)
def test_with_one_centre_a_class_wins_are_the_images_seen(ranks, counts):
    batches = draw_batches(counts, num_classes=9, dim=4, steps=3)
    results = ranks(len(counts)).run(train, OPTIONS, batches)
    seen = torch.cat([label for batch in batches for _, label in batch])
    assert torch.equal(gathered(results, "wins").squeeze(1), seen.bincount(minlength=9))


def test_the_nearest_sub_centre_wins(ranks):
    options = {**OPTIONS, "sub_centres": 3}
    (batch,) = draw_batches([4, 2], num_classes=9, dim=4)
    results = ranks(2).run(train, options, [batch])
    centre = torch.cat([result["initial"]["centre"] for result in results])
    centre = torch.nn.functional.normalize(centre).view(9, 3, 4)
    wins = torch.zeros(9, 3, dtype=torch.int64)
    for embedding, label in batch:
        for one, own in zip(embedding, label, strict=True):
            wins[own, (centre[own] @ one).argmax()] += 1
    assert torch.equal(gathered(results, "wins").view(9, 3), wins)


def test_a_skipped_step_or_a_look_without_backward_wins_nothing():
    head = make_head(OPTIONS)
    ((embedding, label),) = draw_batches([5], num_classes=9, dim=4)[0]
    head(embedding, label)
    embedding[2, 1] = float("nan")
    head(embedding, label).loss.backward()
    assert head.summary().never_seen == 1.0


def test_the_summary_is_that_of_all_ranks_rows(ranks):
    batches = draw_batches([3, 2, 1], num_classes=9, dim=4, steps=2)
    results = ranks(3).run(train, OPTIONS, batches)
    summaries = ranks(3).run(train_and_summarise, OPTIONS, batches)
    length = gathered(results, "centre").norm(dim=1)
    for summary in summaries:
        assert summary == summaries[0]
        unseen = (gathered(results, "wins") == 0).double().mean()
        assert summary.never_seen == pytest.approx(float(unseen))
        assert summary.shortest == pytest.approx(float(length.min()))
        assert summary.mean_length == pytest.approx(float(length.mean()))
        assert summary.longest == pytest.approx(float(length.max()))


def test_centres_alone_start_another_head_with_everything_else_anew():
    trained, other = make_head(OPTIONS), make_head({**OPTIONS, "seed": 5})
    ((embedding, label),) = draw_batches([5], num_classes=9, dim=4)[0]
    trained(embedding, label).loss.backward()
    other(embedding, label).loss.backward()
    other.load_centres((start, {"centre": rows["centre"]}) for start, rows in trained.rows())
    ((_, theirs),), ((_, ours),) = list(trained.rows()), list(other.rows())
    assert torch.equal(ours["centre"], theirs["centre"])
    assert not ours["momentum"].any()
    assert not ours["wins"].any()
    assert other.state()["step"] == 0
