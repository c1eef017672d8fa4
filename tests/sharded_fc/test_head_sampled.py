"""A head that compares with some classes equals a dense one told which, and how likely each was.

In float64 both sides differ only in the order of additions; assert_close's float64 defaults
(rtol 1e-7, atol 1e-7) are far above that and far below any wrong term.
"""

import pytest
import torch

from sharded_fc import native_code, native_tile
from sharded_fc.margins import ArcFace, CosFace, CurricularFace, MVSoftmax, PlainSoftmax, UniFace
from sharded_fc.sampling import Sampling
from tests.sharded_fc.on_ranks import (
    FLOAT64,
    collect,
    dense_head,
    draw_batches,
    gathered,
    join,
    make_head,
    recut,
    train,
)

CLASSES, DIM = 23, 5
OPTIONS = {**FLOAT64, "num_classes": CLASSES, "embedding_dim": DIM, "chunk_classes": 4}
MANNERS = [
    Sampling(rate=0.3),
    Sampling(rate=0.3, correction="logq"),
    Sampling(rate=0.3, correction="logq", untouched="caught_up"),
    Sampling(rate=0.4, correction="logq", quota="peer", untouched="caught_up"),
    Sampling(rate=0.3, correction="logq", block=5),
    Sampling(rate=0.0),
    Sampling(rate=1.0, correction="logq"),
]


def inclusion(sampling, label, step, *, num_classes=CLASSES, seed=0):
    """Each class's probability to be visited in this step; 0 of those that are not."""
    positives = label[label >= 0].unique()
    draw = sampling.draw(num_classes, seed=seed)
    classes, rate = draw.of_step(torch.tensor(step), positives, start=0, stop=num_classes)
    found = torch.zeros(num_classes, dtype=torch.float64)
    found[classes] = rate if sampling.correction == "logq" else 1.0
    found[positives] = 1.0
    return found


def assert_equals_dense(results, options, sampling, batches, extras=None):
    dense = dense_head(results, options, untouched=sampling.untouched)
    for step, batch in enumerate(batches):
        embedding, label = join([pair[:2] for pair in batch])
        q = inclusion(sampling, label, step)
        loss, gradient = dense.step(embedding, label, inclusion=q, **(extras or {}))
        for result in results:
            torch.testing.assert_close(result["loss"][step], loss)
        ours = torch.cat([result["gradient"][step] for result in results])
        torch.testing.assert_close(ours, gradient * len(results))
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)
    for name, expected in dense.state.items():
        assert results[0]["state"][name] == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("sampling", MANNERS, ids=str)
@pytest.mark.parametrize("counts", [[6], [2, 5], [3, 0, 4]], ids=str)
def test_four_steps_equal_the_dense_head_given_the_same_classes(ranks, counts, sampling):
    options = {**OPTIONS, "margin": ArcFace(0.5)}
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=4)
    results = ranks(len(counts)).run(train, {**options, "sampling": sampling}, batches)
    assert_equals_dense(results, options, sampling, batches)


@pytest.mark.parametrize(
    "margin",
    [CurricularFace(0.5), MVSoftmax(0.35), UniFace(0.4, negative_weight=0.7), PlainSoftmax()],
    ids=lambda margin: type(margin).__name__,
)
@pytest.mark.parametrize("sampling", [MANNERS[2], MANNERS[4]], ids=str)
def test_margins_that_change_negatives_or_sum_them_otherwise_are_corrected_too(
    ranks, margin, sampling
):
    scale = 1.0 if isinstance(margin, PlainSoftmax) else 8.0
    options = {**OPTIONS, "margin": margin, "scale": scale}
    batches = draw_batches([3, 4], num_classes=CLASSES, dim=DIM, steps=3)
    results = ranks(2).run(train, {**options, "sampling": sampling}, batches)
    assert_equals_dense(results, options, sampling, batches)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "rowwise"])
def test_rows_caught_up_equal_each_dense_optimizer(ranks, optimizer):
    sampling = MANNERS[2]
    options = {**OPTIONS, "margin": CosFace(0.35), "optimizer": optimizer}
    batches = draw_batches([3, 2], num_classes=CLASSES, dim=DIM, steps=8)
    results = ranks(2).run(train, {**options, "sampling": sampling}, batches)
    assert_equals_dense(results, options, sampling, batches)


@pytest.mark.parametrize("sampling", [MANNERS[0], MANNERS[2]], ids=str)
def test_sub_centres_ratios_clipping_and_faces_of_nobody_go_with_a_sample(ranks, sampling):
    options = {
        **OPTIONS,
        "margin": ArcFace(0.5),
        "sub_centres": 2,
        "unlabelled": "repel",
        "clip_row_norm": 0.05,
        "learning_rate_ratios": [(0, 4, 0.0), (9, 15, 2.0)],
    }
    batches = draw_batches([3, 4], num_classes=CLASSES, dim=DIM, steps=4)
    for batch in batches:
        batch[1][1][0] = -1
    results = ranks(2).run(train, {**options, "sampling": sampling}, batches)
    assert_equals_dense(results, options, sampling, batches)


def test_samples_compete_within_their_own_classes_of_the_sample(ranks):
    sampling = MANNERS[1]
    options = {**OPTIONS, "margin": ArcFace(0.5)}
    ranges = [torch.tensor([[0, 12], [3, 23]]), torch.tensor([[0, 23], [5, 9], [11, 17]])]
    labels = [torch.tensor([4, 9]), torch.tensor([22, 5, 12])]
    drawn = draw_batches([2, 3], num_classes=CLASSES, dim=DIM, steps=3)
    batches = [
        [(e, label, None, r) for (e, _), label, r in zip(batch, labels, ranges, strict=True)]
        for batch in drawn
    ]
    results = ranks(2).run(train, {**options, "sampling": sampling}, batches)
    extras = {"class_range": torch.cat(ranges)}
    assert_equals_dense(results, options, sampling, batches, extras)


@pytest.mark.parametrize("sampling", MANNERS, ids=str)
def test_a_step_is_the_same_at_every_world_size(ranks, sampling):
    options = {**OPTIONS, "margin": CosFace(0.35), "sampling": sampling}
    whole = draw_batches([12], num_classes=CLASSES, dim=DIM, steps=3)
    expected = train(options, whole)
    for world in (2, 3, 8):
        counts = [12 // world + (rank < 12 % world) for rank in range(world)]
        found = ranks(world).run(train, options, [recut(batch, counts) for batch in whole])
        for name in ("centre", "momentum"):
            torch.testing.assert_close(gathered(found, name), expected["rows"][name])


def test_frozen_rows_keep_every_bit_and_the_others_move(ranks):
    sampling = MANNERS[0]
    options = {**OPTIONS, "margin": ArcFace(0.5), "sampling": sampling}
    batches = draw_batches([3, 4], num_classes=CLASSES, dim=DIM)
    results = ranks(2).run(train, options, batches)
    left_out = inclusion(sampling, join(batches[0])[1], 0) == 0
    before = torch.cat([result["initial"]["centre"] for result in results])
    after = gathered(results, "centre")
    assert 5 < left_out.sum() < CLASSES - 5
    assert torch.equal((before == after).all(1), left_out)


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
def test_two_byte_rows_of_a_sample_round_by_the_same_chances_at_every_world_size(ranks, untouched):
    """Labels far apart leave the products' order of additions the only difference, and none here.

    Two dimensions and powers of two keep float32's sums exact enough to compare bits.
    """
    options = {
        "num_classes": CLASSES,
        "embedding_dim": DIM,
        "margin": CosFace(0.35),
        "dtype": torch.bfloat16,
        "compute_dtype": torch.float32,
        "sampling": Sampling(rate=0.3, untouched=untouched),
    }
    whole = draw_batches([6], num_classes=CLASSES, dim=DIM, steps=3)
    alone = train(options, whole)["rows"]["centre"]
    found = gathered(ranks(3).run(train, options, [recut(b, [2, 2, 2]) for b in whole]), "centre")
    # Another order of additions moves a float32 value by 1e-7, and so one rounding in 10^5.
    assert (alone != found).sum() <= 1


def test_a_pass_without_a_backward_and_a_skipped_one_change_no_bit():
    for untouched in ("frozen", "caught_up"):
        options = {
            **OPTIONS,
            "margin": ArcFace(0.5),
            "sampling": Sampling(rate=0.3, untouched=untouched),
        }
        head, plain = make_head(options), make_head(options)
        (((embedding, label),),) = draw_batches([6], num_classes=CLASSES, dim=DIM)
        bad = embedding.clone()
        bad[0, 0] = torch.inf
        for step in range(3):
            head(embedding, label)
            with torch.no_grad():
                head(embedding, label)
            skipped = head(bad.clone().requires_grad_(), label)
            skipped.loss.backward()
            assert not skipped.statistics.committed
            for each in (head, plain):
                each.learning_rate = 0.1 / (step + 1)
                each(embedding.clone().requires_grad_(), label).loss.backward()
        assert head.state() == plain.state()
        for name, value in collect(head).items():
            assert torch.equal(value, collect(plain)[name]), (untouched, name)


@pytest.mark.parametrize("worlds", [(2, 3), (3, 1)], ids=str)
def test_a_caught_up_head_goes_on_at_another_world_size(ranks, worlds):
    sampling = Sampling(rate=0.2, correction="logq", untouched="caught_up")
    options = {**OPTIONS, "margin": ArcFace(0.5)}
    whole = draw_batches([6], num_classes=CLASSES, dim=DIM, steps=8)
    counts = {1: [6], 2: [2, 4], 3: [1, 3, 2]}
    sampled = {**options, "sampling": sampling}
    first, second = (
        [recut(batch, counts[world]) for batch in part]
        for world, part in zip(worlds, (whole[:4], whole[4:]), strict=True)
    )
    half = ranks(worlds[0]).run(train, sampled, first)
    blocks = [block for result in half for block in result["blocks"]]
    results = ranks(worlds[1]).run(train, sampled, second, blocks, half[0]["state"])
    dense = dense_head(half, options)
    for step, batch in enumerate(whole):
        embedding, label = join(batch)
        dense.step(embedding, label, inclusion=inclusion(sampling, label, step))
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)


@pytest.mark.parametrize("scale", [200.0, 1000.0])
def test_sums_that_leave_the_range_of_exp_fall_back_to_the_maximum(scale):
    sampling = Sampling(rate=0.4, correction="logq")
    options = {"num_classes": CLASSES, "embedding_dim": DIM, "margin": CosFace(0.0)}
    options |= {"scale": scale, "sampling": sampling}
    batches = draw_batches([5], num_classes=CLASSES, dim=DIM)
    batches = [[(-e, label) for e, label in batch] for batch in batches]
    result = train(options, batches)
    plain = {name: value for name, value in options.items() if name != "sampling"}
    dense = dense_head([result], plain, untouched="frozen")
    embedding, label = join(batches[0])
    loss, _ = dense.step(embedding, label, inclusion=inclusion(sampling, label, 0))
    # A logit of size `scale` rounds by scale x eps.
    torch.testing.assert_close(result["loss"][0].double(), loss, rtol=1e-6, atol=2e-7 * scale)


def test_conflicts_are_counted_for_all_classes_from_those_that_were_drawn():
    """Over many steps the share is that of a head that sees every class."""
    options = {**OPTIONS, "margin": CosFace(0.35), "conflict_cosine": 0.2, "learning_rate": 0.0}
    ((batch,),) = draw_batches([8], num_classes=CLASSES, dim=DIM)
    full = train(options, [[batch]])["statistics"][0]["conflict_share"]
    sampled = train({**options, "sampling": Sampling(rate=0.3)}, [[batch]] * 150)
    found = torch.stack([s["conflict_share"] for s in sampled["statistics"]])
    assert abs(found.mean() - full) < 5 * found.std() / len(found) ** 0.5


@pytest.mark.parametrize(
    "margin",
    [ArcFace(0.5), CurricularFace(0.5), MVSoftmax(0.35), UniFace(0.4)],
    ids=lambda margin: type(margin).__name__,
)
@pytest.mark.parametrize("sampling", [None, MANNERS[2]], ids=["full", "sampled"])
def test_conflicting_negatives_are_left_out_of_the_loss_by_their_raw_cosine(
    ranks, margin, sampling
):
    options = {**OPTIONS, "margin": margin, "scale": 8.0, "sub_centres": 2}
    batches = draw_batches([3, 4], num_classes=CLASSES, dim=DIM, steps=3)
    asked = {"sampling": sampling, "conflict_cosine": 0.3, "ignore_conflicts": True}
    results = ranks(2).run(train, {**options, **asked}, batches)
    assert all(0.05 < s["conflict_share"] < 0.9 for s in results[0]["statistics"])
    dense = dense_head(results, options, ignored_above=0.3)
    for step, batch in enumerate(batches):
        embedding, label = join(batch)
        q = None if sampling is None else inclusion(sampling, label, step)
        loss, _ = dense.step(embedding, label, inclusion=q)
        torch.testing.assert_close(results[0]["loss"][step], loss)
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)


def test_ignoring_conflicts_needs_to_know_what_they_are():
    with pytest.raises(ValueError, match="needs a conflict_cosine"):
        make_head({**OPTIONS, "margin": CosFace(0.35), "ignore_conflicts": True})


def test_adamw_can_leave_rows_frozen_but_not_catch_them_up():
    options = {**OPTIONS, "margin": CosFace(0.35), "optimizer": "adamw"}
    make_head({**options, "sampling": Sampling(rate=0.1)})
    with pytest.raises(ValueError, match="or untouched='frozen'"):
        make_head({**options, "sampling": Sampling(rate=0.1, untouched="caught_up")})


@pytest.mark.parametrize("rate", [1.5, -0.1, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(ValueError, match=r"use a share of the classes in \[0, 1\]"):
        Sampling(rate=rate)


@pytest.mark.parametrize("operands", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("quota", ["negatives", "peer"])
def test_rows_kept_from_the_first_visit_or_read_again_give_the_same_bits(
    operands, quota, monkeypatch
):
    """Chunks of 16 rows, 8 columns, 6 samples: nothing kept, products, those and some rows, all."""
    reads = []
    read_again = native_tile.copy_rows

    def count(*arguments, **named):
        reads.append(read_again(*arguments, **named))
        return reads[-1]

    monkeypatch.setattr(native_tile, "copy_rows", count)
    options = {
        "num_classes": 200,
        "embedding_dim": 8,
        "chunk_classes": 16,
        "margin": CosFace(0.35),
        "compute_dtype": operands,
        "sampling": Sampling(rate=0.4, quota=quota),
    }
    batches = draw_batches([6], num_classes=200, dim=8, steps=3)
    products = 6 * 16 * 6 * operands.itemsize
    found, counts = [], []
    for kept_bytes in (0, products, products + 50 * 8 * operands.itemsize, 1 << 20):
        reads.clear()
        found.append(train({**options, "kept_bytes": kept_bytes}, batches))
        counts.append(sum(reads))
    for other in found[1:]:
        assert all(map(torch.equal, other["loss"], found[0]["loss"]))
        assert all(map(torch.equal, other["gradient"], found[0]["gradient"]))
        assert all(
            torch.equal(other["rows"][name], rows) for name, rows in found[0]["rows"].items()
        )
    if native_code.library() is not None:
        assert counts[0] == counts[1] > counts[2] > counts[3] == 0
