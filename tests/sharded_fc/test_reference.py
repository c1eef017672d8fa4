"""The dense head's options: plain torch where torch has them, sums by hand where not."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sharded_fc.margins import (
    AdaFace,
    ArcFace,
    CosFace,
    CurricularFace,
    Margin,
    PlainSoftmax,
    UniFace,
)
from sharded_fc.optimizer import SGD, AdamW, RowWise
from sharded_fc.reference import DenseHead, dense_loss
from tests.sharded_fc.dense_heads import CLASSES, DIM, SCALE, batch, close, cosines, draw, head


def test_the_plain_softmax_is_a_linear_layer_with_cross_entropy():
    centre = draw(CLASSES, DIM + 1)
    layer = nn.Linear(DIM, CLASSES).double()
    with torch.no_grad():
        layer.weight.copy_(centre[:, :-1])
        layer.bias.copy_(centre[:, -1])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    ours = DenseHead(centre, margin=PlainSoftmax(), scale=1.0, learning_rate=0.1, weight_decay=0.01)
    for seed in range(3):
        embedding, label = batch(seed=seed)
        optimizer.zero_grad()
        expected = F.cross_entropy(layer(embedding / 10.0), label)
        expected.backward()
        optimizer.step()
        close(ours.step(embedding / 10.0, label)[0], expected.detach())
    close(ours.centre, torch.cat([layer.weight, layer.bias.unsqueeze(1)], 1).detach())


@pytest.mark.parametrize(
    "rule",
    [SGD(momentum=0.0, weight_decay=0.01), SGD(0.9, 0.01, nesterov=True), AdamW(), RowWise()],
    ids=str,
)
def test_ranges_of_the_usual_rate_change_nothing(rule):
    whole, cut = (
        head(optimizer=rule),
        head(optimizer=rule, learning_rate_ratios=((3, 5, 1.0), (5, 6, 1.0))),
    )
    for seed in range(3):
        assert torch.equal(whole.step(*batch(seed=seed))[0], cut.step(*batch(seed=seed))[0])
    for name, tensor in whole.rows().items():
        assert torch.equal(tensor, cut.rows()[name]), name


def test_the_row_wise_update_is_its_formula_row_by_row():
    rule = RowWise(beta=0.9, eps=1e-6, weight_decay=0.02)
    ours, first = head(optimizer=rule), draw(CLASSES, DIM)
    leaf = first.clone().requires_grad_()
    dense_loss(*(batch()[0], leaf, batch()[1]), margin=CosFace(0.35), scale=SCALE).backward()
    ours.step(*batch())
    assert leaf.grad is not None
    for row in range(CLASSES):
        square = 0.1 * (leaf.grad[row] ** 2).mean()
        moved = first[row] * (1 - 0.1 * 0.02) - 0.1 * leaf.grad[row] / (square**0.5 + 1e-6)
        close(ours.rows()["square"][row], square.unsqueeze(0))
        close(ours.centre[row], moved)


def test_weights_multiply_losses_and_the_count_stays():
    embedding, label = batch()
    weight = torch.linspace(0.0, 3.0, len(label), dtype=torch.float64)
    ours = head()
    loss, _ = ours.step(embedding, label, sample_weight=weight)
    close(loss, (weight * ours.sample_loss).sum() / len(label))
    logit = SCALE * cosines(embedding, draw(CLASSES, DIM))
    logit[range(len(label)), label] -= SCALE * 0.35
    close(ours.sample_loss, F.cross_entropy(logit, label, reduction="none"))


def test_ignored_samples_neither_count_nor_have_a_gradient():
    embedding, label = batch()
    mixed = torch.cat([label, torch.tensor([-1, -1])])
    ours, fewer = head(unlabelled="ignore"), head()
    loss, gradient = ours.step(torch.cat([embedding, draw(2, DIM)]), mixed)
    expected, of_fewer = fewer.step(embedding, label)
    close(loss, expected)
    close(gradient[:-2], of_fewer)
    assert (gradient[-2:] == 0).all()
    assert ours.sample_loss[-2:].tolist() == [0.0, 0.0]
    close(ours.centre, fewer.centre)


def test_repelled_samples_have_the_log_sum_of_all_their_logits():
    embedding, label = batch()
    label[2] = -1
    ours = head(CurricularFace(), unlabelled="repel")
    loss, _ = ours.step(embedding, label)
    logit = SCALE * cosines(embedding, draw(CLASSES, DIM))
    close(ours.sample_loss[2], logit[2].exp().sum().log())
    close(loss, ours.sample_loss.sum() / len(label))


def test_a_batch_in_which_nothing_counts_has_no_loss_and_moves_no_row():
    ours = head(AdaFace(), unlabelled="ignore", weight_decay=0.0)
    loss, gradient = ours.step(batch()[0], torch.full((7,), -1))
    assert loss.item() == 0.0
    assert (gradient == 0).all()
    assert torch.equal(ours.centre, draw(CLASSES, DIM))
    assert {name: value.item() for name, value in ours.state.items()} == {
        "mean": 20.0,
        "std": 100.0,
    }


def test_a_label_of_no_class_is_refused_unless_asked_for():
    with pytest.raises(ValueError, match="use unlabelled="):
        head().step(batch()[0], torch.full((7,), -1))


def test_a_range_of_classes_is_a_head_of_those_classes():
    embedding, _ = batch(4)
    label = torch.tensor([3, 4, 5, 6])
    ours = head(CurricularFace(), weight_decay=0.0)
    small = DenseHead(
        draw(CLASSES, DIM)[3:7], margin=CurricularFace(), scale=SCALE, learning_rate=0.1
    )
    loss, gradient = ours.step(embedding, label, class_range=torch.tensor([[3, 7]] * 4))
    expected, of_small = small.step(embedding, label - 3)
    close(loss, expected)
    close(gradient, of_small)
    close(ours.centre[3:7], small.centre)
    assert torch.equal(ours.centre[:3], draw(CLASSES, DIM)[:3])


@pytest.mark.parametrize("margin", [ArcFace(0.5), UniFace()], ids=str)
def test_of_two_centres_a_class_only_the_nearer_one_matters(margin: Margin):
    embedding, label = batch(1)
    both = head(margin, rows=2 * CLASSES, sub_centres=2)
    rows = draw(2 * CLASSES, DIM).view(CLASSES, 2, DIM)
    nearer = torch.stack([cosines(embedding, pair).argmax() for pair in rows])
    chosen = rows[range(CLASSES), nearer]
    one = DenseHead(chosen, margin=margin, scale=SCALE, learning_rate=0.1, weight_decay=5e-4)
    # UniFace's bias starts at the number of classes, which is the same for both.
    close(both.step(embedding, label), one.step(embedding, label))
    close(both.centre.view(CLASSES, 2, DIM)[range(CLASSES), nearer], one.centre)


def test_margins_of_classes_are_those_of_the_samples_own():
    embedding, label = batch()
    of_class = torch.linspace(0.0, 0.6, CLASSES, dtype=torch.float64)
    ours = head(ArcFace(0.5), class_margin=of_class)
    ours.step(embedding, label)
    for sample in range(len(label)):
        alone = head(ArcFace(float(of_class[label[sample]])))
        loss, _ = alone.step(embedding[sample : sample + 1], label[sample : sample + 1])
        close(ours.sample_loss[sample], loss)


def test_a_ratio_of_zero_freezes_rows_and_what_is_kept_for_them():
    ours = head(learning_rate_ratios=((2, 4, 0.0), (7, 8, 0.5)), clip_row_norm=1.0)
    free = head(clip_row_norm=1.0)
    first = ours.centre
    ours.step(*batch())
    free.step(*batch())
    assert torch.equal(ours.centre[2:4], first[2:4])
    assert (ours.momentum[2:4] == 0).all()
    assert torch.equal(ours.momentum[7:8], free.momentum[7:8])
    close(ours.centre[7:8] - first[7:8], (free.centre[7:8] - first[7:8]) / 2)
    assert torch.equal(ours.centre[8:], free.centre[8:])


def test_clipping_bounds_each_rows_gradient_and_keeps_its_direction():
    free, ours = (
        head(momentum=0.0, weight_decay=0.0, learning_rate=1.0, clip_row_norm=clip)
        for clip in (None, 0.5)
    )
    first = free.centre
    free.step(*batch())
    ours.step(*batch())
    before, after = free.centre - first, ours.centre - first
    length = before.norm(dim=1, keepdim=True)
    assert (length > 0.5).any()
    assert (length < 0.5).any()
    close(after, before * (0.5 / length).clamp_max(1.0))


def test_unifaces_loss_and_bias_step_are_their_sums_written_out():
    embedding, label = batch()
    label[1] = -1
    margin = UniFace(0.4, negative_weight=0.7)
    ours = head(margin, unlabelled="repel")
    cosine, bias = cosines(embedding, draw(CLASSES, DIM)), math.log(10.0 * CLASSES)
    total, slope = 0.0, 0.0
    for sample, own in enumerate(label.tolist()):
        for other in range(CLASSES):
            logit = SCALE * cosine[sample, other].item()
            if other == own:
                total += math.log1p(math.exp(bias - logit + SCALE * 0.4))
                slope += 1.0 / (1.0 + math.exp(logit - SCALE * 0.4 - bias))
            else:
                total += 0.7 * math.log1p(math.exp(logit - bias))
                slope -= 0.7 / (1.0 + math.exp(bias - logit))
    loss, _ = ours.step(embedding, label)
    assert loss.item() == pytest.approx(total / 7, rel=1e-12)
    assert ours.state["bias"].item() == pytest.approx(bias - 0.1 * slope / 7, rel=1e-12)
