"""Sigmoid losses, whose gradients wait for nothing: one visit, wherever its gradients are kept.

In float64 the dense head differs only in the order of additions: assert_close's defaults are far
above that and far below any wrong term. Steps that keep gradients and steps that make them again do
the same operations, so they are compared to the bit.
"""

import pytest
import torch

from sharded_fc.margins import ArcFace, UniFace
from sharded_fc.operands import Operands
from sharded_fc.sampling import Sampling
from tests.sharded_fc.on_ranks import (
    FLOAT64,
    collect,
    dense_head,
    draw_batches,
    gathered,
    make_head,
    train,
)
from tests.sharded_fc.rows_anywhere import kept as kept_outside
from tests.sharded_fc.test_head_sampled import inclusion

CLASSES, DIM = 23, 5
COUNTS = [[6], [4, 1], [3, 0, 5]]
OPTIONS = {
    "num_classes": CLASSES,
    "embedding_dim": DIM,
    "margin": UniFace(0.3, negative_weight=0.7, initial_bias=2.0),
    "chunk_classes": 3,
}
NONE, SOME, ALL = 0, 400, 10**9
"""Bytes to keep gradients in: a chunk of 3 classes takes 120 to 192 of them in float64."""


def two_datasets(embedding, label):
    """Two datasets, faces of nobody known, and weights."""
    first = (label < 9).unsqueeze(1)
    ranges = torch.where(first, torch.tensor([0, 9]), torch.tensor([9, CLASSES]))
    known = torch.where(torch.arange(len(label)) % 3 == 1, -1, label)
    return embedding, known, torch.arange(len(label), dtype=torch.float64) / 2, ranges


def batches_of(counts, *, steps=3, make=lambda embedding, label: (embedding, label), seed=5):
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=steps, seed=seed)
    return [[make(*view) for view in batch] for batch in batches]


def assert_equals_dense(results, options, batches, **others):
    dense = dense_head(results, options)
    for step, batch in enumerate(batches):
        columns = list(zip(*[view for view in batch if len(view[0])], strict=True))
        weight, class_range = map(torch.cat, columns[2:]) if columns[2:] else (None, None)
        loss, gradient = dense.step(
            torch.cat(columns[0]),
            torch.cat(columns[1]),
            sample_weight=weight,
            class_range=class_range,
        )
        for result in results:
            torch.testing.assert_close(result["loss"][step], loss)
        ours = torch.cat([result["gradient"][step] for result in results]) / len(results)
        torch.testing.assert_close(ours, gradient)
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)
    for name, expected in dense.state.items():
        for result in results:
            assert result["state"][name] == pytest.approx(float(expected), rel=1e-9)


DIRTY = {
    "plain": {},
    "sub-centres": {"sub_centres": 2, "chunk_classes": 2},
    "class margins": {"class_margin": torch.linspace(0.1, 0.5, CLASSES, dtype=torch.float64)},
    "frozen, faster and clipped rows": {
        "learning_rate_ratios": [(2, 5, 0.5), (7, 12, 0.0)],
        "clip_row_norm": 0.02,
    },
    "row-wise": {"optimizer": "rowwise"},
    "one chunk": {"chunk_classes": None},
}


@pytest.mark.parametrize("kept_bytes", [NONE, SOME, ALL])
@pytest.mark.parametrize("changes", DIRTY.values(), ids=DIRTY)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_three_steps_equal_the_dense_head(ranks, counts, changes, kept_bytes):
    options = {**FLOAT64, **OPTIONS, **changes}
    batches = batches_of(counts)
    results = ranks(len(counts)).run(train, {**options, "kept_bytes": kept_bytes}, batches)
    assert_equals_dense(results, options, batches)


@pytest.mark.parametrize("unlabelled", ["ignore", "repel"])
@pytest.mark.parametrize("kept_bytes", [NONE, SOME, ALL])
def test_ranges_weights_and_faces_of_nobody_equal_the_dense_head(ranks, kept_bytes, unlabelled):
    options = {**FLOAT64, **OPTIONS, "unlabelled": unlabelled}
    batches = batches_of([3, 0, 5], make=two_datasets)
    results = ranks(3).run(train, {**options, "kept_bytes": kept_bytes}, batches)
    assert_equals_dense(results, options, batches)


SAMPLINGS = [
    Sampling(rate=0.3, correction="logq"),
    Sampling(rate=0.4, correction="logq", quota="peer", untouched="caught_up"),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("kept_bytes", [NONE, SOME, ALL])
def test_a_sample_of_the_classes_equals_the_dense_head_told_which(ranks, kept_bytes, sampling):
    options = {**FLOAT64, **OPTIONS}
    batches = batches_of([3, 0, 4])
    given = {**options, "sampling": sampling, "kept_bytes": kept_bytes}
    results = ranks(3).run(train, given, batches)
    dense = dense_head(results, options, untouched=sampling.untouched)
    for step, batch in enumerate(batches):
        embedding, label = (torch.cat(column) for column in zip(*batch, strict=True))
        q = inclusion(sampling, label, step)
        loss, gradient = dense.step(embedding, label, inclusion=q)
        torch.testing.assert_close(results[0]["loss"][step], loss)
        ours = torch.cat([result["gradient"][step] for result in results]) / 3
        torch.testing.assert_close(ours, gradient)
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)
    assert results[0]["state"]["bias"] == pytest.approx(float(dense.state["bias"]), rel=1e-9)


PRECISIONS = {
    "float64": FLOAT64,
    "float32": {},
    "bfloat16 operands": {"compute_dtype": torch.bfloat16},
    "float16 operands": {"compute_dtype": torch.float16},
    "bfloat16 rows": {"dtype": torch.bfloat16},
    "float16 rows": {"dtype": torch.float16, "state_dtype": torch.float32},
}


def bits(results):
    """Everything that a run leaves."""
    kept = ("loss", "gradient", "rows")
    return [{name: result[name] for name in kept} | result["state"] for result in results]


@pytest.mark.parametrize("native", ["1", "0"], ids=["compiled", "torch"])
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
def test_kept_or_made_again_gives_the_same_bits(precision, native, monkeypatch):
    monkeypatch.setenv("FACESCALE_NATIVE", native)
    # Chunks of 16 classes x 16 samples: kept tiles lie as the buffer does, which BLAS may look at.
    sizes = {"num_classes": 100, "embedding_dim": 16, "chunk_classes": 16}
    batches = draw_batches([16], num_classes=100, dim=16, steps=3)
    found = [
        bits([train({**OPTIONS, **precision, **sizes, "kept_bytes": kept}, batches)])
        for kept in (NONE, 5000, ALL)
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=0.0)
    torch.testing.assert_close(found[2], found[0], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("untouched", ["frozen", "caught_up"])
@pytest.mark.parametrize("kept_bytes", [NONE, SOME, ALL])
def test_rows_outside_the_device_give_the_same_bits(tmp_path, kept_bytes, untouched):
    sampling = Sampling(rate=0.5, correction="logq", untouched=untouched)
    options = {**OPTIONS, "sampling": sampling, "kept_bytes": kept_bytes}
    batches = batches_of([5])
    expected = bits([train({**options, "kept_bytes": ALL}, batches)])
    found = bits([train({**options, "outside": kept_outside("host", tmp_path)}, batches)])
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


# -- what is made, and when ------------------------------------------------------------------------


class Counted:
    """How often each of a chunk's three products was made."""

    def __init__(self, monkeypatch):
        self.calls = dict.fromkeys(("products", "add_embedding_gradient", "row_gradients"), 0)
        for name in self.calls:
            monkeypatch.setattr(Operands, name, self.watched(name, getattr(Operands, name)))

    def watched(self, name, function):
        def call(*given, **named):
            self.calls[name] += 1
            return function(*given, **named)

        return call

    def take(self):
        """The counts since the last look."""
        found = tuple(self.calls.values())
        self.calls = dict.fromkeys(self.calls, 0)
        return found


def leaf_and_label(seed=0, count=5):
    (((embedding, label),),) = draw_batches([count], num_classes=CLASSES, dim=DIM, seed=seed)
    return embedding.float().requires_grad_(), label


def gradient_of(leaf):
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize(("kept_bytes", "kept"), [(NONE, 0), (3 * 60, 3), (ALL, 8)])
def test_a_chunk_whose_gradients_are_kept_takes_three_products_and_others_four(
    monkeypatch, kept_bytes, kept
):
    """In 8 chunks, of 3 classes x 5 samples in float32: 60 bytes each."""
    head = make_head({**OPTIONS, "kept_bytes": kept_bytes})
    counted = Counted(monkeypatch)
    loss = head(*leaf_and_label()).loss
    assert counted.take() == (8, kept, 0)
    loss.backward()
    assert counted.take() == (8 - kept, 8 - kept, 8)


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kept_gradients_take_the_room_of_a_softmaxs_products(compute_dtype):
    rooms = []
    for margin in (ArcFace(0.5), UniFace()):
        head = make_head({**OPTIONS, "margin": margin, "compute_dtype": compute_dtype})
        head(*leaf_and_label()).loss.backward()
        kept = head._problem.softmax._kept
        assert kept is not None
        rooms.append(kept.nbytes)
    assert rooms[0] == rooms[1] == 8 * 3 * 5 * compute_dtype.itemsize


def test_without_a_backward_to_come_nothing_but_the_loss_is_made_and_nothing_is_kept(monkeypatch):
    head = make_head(OPTIONS)
    before, state = collect(head), head.state()
    counted = Counted(monkeypatch)
    with torch.no_grad():
        loss = head(*leaf_and_label()).loss
    assert counted.take() == (8, 0, 0)
    assert head._problem.softmax._kept is None
    assert torch.equal(head(*leaf_and_label()).loss.detach(), loss)
    assert head.state() == state
    torch.testing.assert_close(collect(head), before, rtol=0.0, atol=0.0)


def test_gradients_that_another_call_overwrote_are_made_again_for_the_rows_alone(monkeypatch):
    plain, disturbed = make_head(OPTIONS), make_head(OPTIONS)
    one, other = leaf_and_label(), leaf_and_label()
    plain(*one).loss.backward()
    loss = disturbed(*other).loss
    disturbed(*leaf_and_label(seed=1))  # its gradients take the place
    counted = Counted(monkeypatch)
    loss.backward()
    assert counted.take() == (8, 0, 8)
    assert torch.equal(gradient_of(one[0]), gradient_of(other[0]))
    torch.testing.assert_close(collect(plain), collect(disturbed), rtol=0.0, atol=0.0)


def test_a_call_of_another_size_or_without_gradient_in_between_changes_nothing():
    plain, disturbed = make_head(OPTIONS), make_head(OPTIONS)
    one, other = leaf_and_label(), leaf_and_label()
    plain(*one).loss.backward()
    loss = disturbed(*other).loss
    with torch.no_grad():
        disturbed(*leaf_and_label(seed=1))
    disturbed(*leaf_and_label(seed=2, count=9))
    loss.backward()
    assert torch.equal(gradient_of(one[0]), gradient_of(other[0]))
    torch.testing.assert_close(collect(plain), collect(disturbed), rtol=0.0, atol=0.0)
