"""What large, dirty, mixed data needs, each against the dense head on 1 to 3 uneven ranks.

float64 on both sides: assert_close's defaults are far above reordered additions and far below any
wrong term.
"""

import pytest
import torch

from sharded_fc import ShardedHead
from sharded_fc.arguments import View
from sharded_fc.margins import ArcFace, CosFace, CurricularFace, UniFace
from tests.ranks import RankError
from tests.sharded_fc.on_ranks import FLOAT64, dense_head, draw_batches, gathered, train

DIM, CLASSES = 4, 11
COUNTS = [[6], [4, 1], [3, 0, 5]]
OPTIONS = {
    **FLOAT64,
    "num_classes": CLASSES,
    "embedding_dim": DIM,
    "margin": ArcFace(0.5),
    "chunk_classes": 3,
}


def batches_of(counts, **extras):
    """Two steps; `extras` make (embedding, label) into what a view takes."""
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=2, seed=5)
    make = extras.get("make", lambda embedding, label: (embedding, label))
    return [[make(*view) for view in batch] for batch in batches]


def assert_equals_dense(results, options, batches):
    dense = dense_head(results, options)
    for step, batch in enumerate(batches):
        views = [view for view in batch if len(view[0])]
        columns = list(zip(*views, strict=True))
        embedding, label = torch.cat(columns[0]), torch.cat(columns[1])
        extras = {}
        if len(columns) > 2 and columns[2][0] is not None:
            extras["sample_weight"] = torch.cat(columns[2])
        if len(columns) > 3:
            extras["class_range"] = torch.cat(columns[3])
        loss, gradient = dense.step(embedding, label, **extras)
        torch.testing.assert_close(results[0]["loss"][step], loss)
        ours = torch.cat([result["gradient"][step] for result in results]) / len(results)
        torch.testing.assert_close(ours, gradient)
        per_sample = torch.cat([result["sample_loss"][step] for result in results])
        torch.testing.assert_close(per_sample, dense.sample_loss)
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)


# -- sub-centres -----------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [ArcFace(0.5), CurricularFace(), UniFace()])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("sub_centres", [2, 3])
def test_sub_centres_equal_dense_and_only_the_nearest_learns(ranks, counts, margin, sub_centres):
    options = {**OPTIONS, "margin": margin, "sub_centres": sub_centres}
    batches = batches_of(counts)
    assert_equals_dense(ranks(len(counts)).run(train, options, batches), options, batches)


def test_a_class_keeps_its_rows_together_on_one_rank(ranks):
    options = {**OPTIONS, "sub_centres": 3}
    results = ranks(3).run(train, options, batches_of([1, 1, 1]))
    assert [result["partition"] for result in results] == [(0, 4), (4, 8), (8, 11)]
    assert [len(result["rows"]["centre"]) for result in results] == [12, 12, 9]


# -- ranges of classes -----------------------------------------------------------------------------


def with_range(embedding, label):
    """Two datasets: classes [0, 4) and [4, 11)."""
    first = (label < 4).unsqueeze(1)
    return embedding, label, None, torch.where(first, torch.tensor([0, 4]), torch.tensor([4, 11]))


@pytest.mark.parametrize("margin", [CosFace(0.35), CurricularFace(), UniFace()])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_samples_that_compete_within_their_dataset_equal_dense(ranks, counts, margin):
    options = {**OPTIONS, "margin": margin}
    batches = batches_of(counts, make=with_range)
    assert_equals_dense(ranks(len(counts)).run(train, options, batches), options, batches)


def test_classes_outside_every_range_of_a_batch_do_not_move(ranks):
    options = {**OPTIONS, "weight_decay": 0.0}
    (batch, _) = batches_of([3, 3])
    narrow = [
        (e, label % 4, None, torch.tensor([[0, 4]]).repeat(len(label), 1)) for e, label in batch
    ]
    results = ranks(2).run(train, options, [narrow])
    before = torch.cat([result["initial"]["centre"] for result in results])
    after = gathered(results, "centre")
    assert torch.equal(after[4:], before[4:])
    assert (after[:4] != before[:4]).any(1).all()


# -- labels of -1 ----------------------------------------------------------------------------------


def with_unknown(embedding, label):
    """Every third sample is of nobody known."""
    return embedding, torch.where(torch.arange(len(label)) % 3 == 1, -1, label)


@pytest.mark.parametrize("margin", [ArcFace(0.5), CurricularFace(), UniFace()])
@pytest.mark.parametrize("unlabelled", ["ignore", "repel"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_faces_of_nobody_known_equal_dense(ranks, counts, unlabelled, margin):
    options = {**OPTIONS, "margin": margin, "unlabelled": unlabelled}
    batches = batches_of(counts, make=with_unknown)
    assert_equals_dense(ranks(len(counts)).run(train, options, batches), options, batches)


def test_ignored_faces_get_no_gradient_and_repelled_ones_do(ranks):
    batches = batches_of([3, 3], make=with_unknown)[:1]
    for unlabelled, expected in (("ignore", False), ("repel", True)):
        results = ranks(2).run(train, {**OPTIONS, "unlabelled": unlabelled}, batches)
        for result in results:
            assert bool(result["gradient"][0][1].any()) is expected
            assert bool(result["gradient"][0][[0, 2]].any(1).all())


def test_a_batch_of_nobody_known_changes_no_row_where_they_are_ignored(ranks):
    options = {**OPTIONS, "unlabelled": "ignore", "weight_decay": 0.0}
    batch = [(e, torch.full_like(label, -1)) for e, label in batches_of([2, 2])[0]]
    results = ranks(2).run(train, options, [batch])
    before = torch.cat([result["initial"]["centre"] for result in results])
    assert torch.equal(gathered(results, "centre"), before)
    assert float(results[0]["loss"][0]) == 0.0


def test_an_unknown_face_is_refused_unless_a_mode_says_what_it_means(ranks):
    with pytest.raises(RankError, match="unlabelled='ignore' or 'repel' takes -1"):
        ranks(2).run(train, OPTIONS, batches_of([2, 2], make=with_unknown))


# -- weights ---------------------------------------------------------------------------------------


def with_weight(embedding, label):
    return embedding, label, torch.arange(len(label), dtype=torch.float64) / 2


@pytest.mark.parametrize("margin", [ArcFace(0.5), CurricularFace(), UniFace()])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_sample_weights_equal_dense(ranks, counts, margin):
    options = {**OPTIONS, "margin": margin}
    batches = batches_of(counts, make=with_weight)
    assert_equals_dense(ranks(len(counts)).run(train, options, batches), options, batches)


def test_everything_at_once_equals_dense(ranks):
    def make(embedding, label):
        label = with_unknown(embedding, label)[1]
        ranges = with_range(embedding, label.clamp_min(0))[3]
        return embedding, label, with_weight(embedding, label)[2], ranges

    options = {
        **OPTIONS,
        "margin": CosFace(0.35),
        "sub_centres": 2,
        "unlabelled": "repel",
        "class_margin": torch.linspace(0.1, 0.5, CLASSES, dtype=torch.float64),
        "clip_row_norm": 0.05,
        "learning_rate_ratios": [(2, 5, 0.5), (7, 8, 0.0)],
        "optimizer": "nesterov",
    }
    batches = batches_of([3, 0, 5], make=make)
    assert_equals_dense(ranks(3).run(train, options, batches), options, batches)


# -- frozen rows, learning rates by range, clipping ------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw", "rowwise"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_every_optimizer_with_ranges_of_learning_rates_equals_dense(ranks, counts, optimizer):
    options = {
        **OPTIONS,
        "optimizer": optimizer,
        "learning_rate": 0.01,
        "learning_rate_ratios": [(1, 4, 0.25), (6, 9, 0.0)],
    }
    batches = batches_of(counts)
    assert_equals_dense(ranks(len(counts)).run(train, options, batches), options, batches)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rowwise"])
def test_frozen_rows_and_their_state_keep_every_bit(ranks, optimizer):
    options = {**OPTIONS, "optimizer": optimizer, "learning_rate_ratios": [(3, 8, 0.0)]}
    results = ranks(2).run(train, options, batches_of([3, 3]))
    before = torch.cat([result["initial"]["centre"] for result in results])
    for name in results[0]["rows"].keys() - {"wins"}:
        after = gathered(results, name)
        assert torch.equal(after[3:8], before[3:8] if name == "centre" else 0 * after[3:8])
    assert (gathered(results, "centre")[:3] != before[:3]).any(1).all()


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_clipped_rows_equal_dense_and_no_gradient_is_longer(ranks, counts):
    options = {**OPTIONS, "clip_row_norm": 0.02, "weight_decay": 0.0}
    batches = batches_of(counts)[:1]
    results = ranks(len(counts)).run(train, options, batches)
    assert_equals_dense(results, options, batches)
    lengths = gathered(results, "momentum").norm(dim=1)  # the first step's gradients
    assert lengths.max() <= 0.02 * (1 + 1e-12)
    assert (lengths > 0.02 * (1 - 1e-9)).any()


# -- statistics and refusals -----------------------------------------------------------------------


def test_conflicts_top1_and_the_low_percentile_are_those_of_the_whole_batch(ranks):
    options = {**OPTIONS, "conflict_cosine": 0.3, "margin": CosFace(0.35)}
    batches = batches_of([4, 1, 7])[:1]
    results = ranks(3).run(train, options, batches)
    embedding = torch.cat([e for e, _ in batches[0]])
    label = torch.cat([label for _, label in batches[0]])
    centre = torch.cat([result["initial"]["centre"] for result in results])
    unit = torch.nn.functional.normalize
    cosine = unit(embedding) @ unit(centre).t()
    own = torch.nn.functional.one_hot(label, CLASSES).bool()
    negative = cosine.masked_fill(own, -2)
    for result in results:
        found = result["statistics"][0]
        share = (negative > 0.3).double().sum(1).mean() / (CLASSES - 1)
        torch.testing.assert_close(found["conflict_share"], share)
        torch.testing.assert_close(found["top1"], (cosine[own] > negative.amax(1)).double().mean())
        torch.testing.assert_close(found["target_cosine_p05"], cosine[own].sort().values[0])
        logit = 16.0 * cosine - 16.0 * 0.35 * own
        mass = 1 - logit.softmax(1)[own]
        torch.testing.assert_close(found["negative_mass"], mass.mean())


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"sample_weight": torch.tensor([1.0, -1.0])}, "one number of 0 or more for each sample"),
        ({"sample_weight": torch.ones(3)}, "one number of 0 or more for each sample"),
        ({"class_range": torch.tensor([[0, 4], [4, 4]])}, r"class_range \[4, 4\), which is empty"),
        ({"class_range": torch.tensor([[0, 4], [0, 12]])}, r"leaves \[0, 11\)"),
        ({"class_range": torch.tensor([[0, 4], [0, 5]])}, "does not hold its sample's label"),
        ({"class_range": torch.zeros(2, 3, dtype=torch.int64)}, r"not \[samples, 2\]"),
    ],
)
def test_bad_weights_and_ranges_are_refused_with_the_rank(extras, message):
    head = ShardedHead(**OPTIONS, scale=16.0, learning_rate=0.1)
    with pytest.raises(ValueError, match=f"rank 0 passed .*{message}"):
        head([View(torch.randn(2, DIM, dtype=torch.float64), torch.tensor([3, 7]), **extras)])


def test_weights_on_some_ranks_only_are_refused_everywhere(ranks):
    batch = [
        view if rank else view[:2]
        for rank, view in enumerate(batches_of([2, 2], make=with_weight)[0])
    ]
    with pytest.raises(RankError, match="some ranks passed sample_weight, others did not"):
        ranks(2).run(train, OPTIONS, [batch])
