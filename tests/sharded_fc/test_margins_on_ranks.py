"""Every margin in the sharded head equals the dense one: two steps, on 1 to 4 ranks, uneven.

In float64 both differ only in the order of additions (and the reference's acos); assert_close's
float64 defaults are far above that and far below any wrong term. Rows, optimizer and the margin's
scalars are compared, not losses alone.
"""

import pytest
import torch

from sharded_fc.margins import (
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    CurricularFace,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    MVSoftmax,
    NormFace,
    PlainSoftmax,
    SphereFace,
    UniFace,
)
from tests.sharded_fc.on_ranks import (
    FLOAT64,
    dense_head,
    draw_batches,
    gathered,
    join,
    recut,
    train,
)

MARGINS = {
    "normface": NormFace(),
    "cosface": CosFace(0.35),
    "arcface": ArcFace(0.5),
    "arcface-straight": ArcFace(0.5, gradient="straight_through"),
    "sphereface": SphereFace(),
    "combined": CombinedMargin(factor=0.9, angle=0.4, cosine=0.15),
    "mv-softmax": MVSoftmax(),
    "curricularface": CurricularFace(),
    "magface": MagFace(),
    "adaface": AdaFace(),
    "elastic-arc": ElasticArcFace(),
    "elastic-arc-plus": ElasticArcFace(deviation=0.0175, plus=True),
    "elastic-cos-plus": ElasticCosFace(deviation=0.02, plus=True),
    "uniface": UniFace(),
    "uniface, lighter negatives": UniFace(0.4, negative_weight=0.7),
    "softmax": PlainSoftmax(),
}
DIM, CLASSES = 5, 11


def options_of(name, **changes):
    return {
        **FLOAT64,
        "num_classes": CLASSES,
        "embedding_dim": DIM,
        "margin": MARGINS[name],
        "scale": 1.0 if name == "softmax" else 16.0,
        "chunk_classes": 3,
        "seed": 7,
        **changes,
    }


def batches_of(counts, steps=2):
    """Embeddings of lengths from 5 to 60: inside and outside of what MagFace clamps to."""
    batches = draw_batches(counts, num_classes=CLASSES, dim=DIM, steps=steps, seed=3)
    return [[(12.0 * embedding, label) for embedding, label in batch] for batch in batches]


def assert_equals_dense(results, options, batches):
    dense = dense_head(results, options)
    world = len(results)
    for step, batch in enumerate(batches):
        loss, gradient = dense.step(*join(batch))
        for result in results:
            assert torch.equal(result["loss"][step], results[0]["loss"][step])
            assert bool(result["statistics"][step]["committed"])
        torch.testing.assert_close(results[0]["loss"][step], loss)
        ours = torch.cat([result["gradient"][step] for result in results]) / world
        torch.testing.assert_close(ours, gradient)
    for name, expected in dense.rows().items():
        torch.testing.assert_close(gathered(results, name), expected)
    for name, expected in dense.state.items():
        for result in results:
            assert result["state"][name] == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("counts", [[6], [4, 1], [3, 0, 5], [1, 2, 2, 1]], ids=str)
def test_two_steps_of_every_margin_equal_dense(ranks, counts, name):
    options = options_of(name)
    batches = batches_of(counts)
    assert_equals_dense(ranks(len(counts)).run(train, options, batches), options, batches)


@pytest.mark.parametrize("name", MARGINS)
def test_the_same_batch_cut_otherwise_over_ranks_gives_the_same_rows_and_scalars(ranks, name):
    options = options_of(name)
    batches = batches_of([6])
    whole = ranks(1).run(train, options, batches)
    cut = ranks(3).run(train, options, [recut(batch, [1, 3, 2]) for batch in batches])
    for row_name in whole[0]["rows"]:
        torch.testing.assert_close(gathered(cut, row_name), gathered(whole, row_name))
    for state_name, value in whole[0]["state"].items():
        assert cut[0]["state"][state_name] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", ["curricularface", "adaface", "uniface"])
def test_a_skipped_step_leaves_the_margins_scalars(ranks, name):
    options = options_of(name)
    good, bad, more = batches_of([2, 3], steps=3)
    bad[1][0][0, 0] = float("nan")
    with_bad = ranks(2).run(train, options, [good, bad, more])
    without = ranks(2).run(train, options, [good, more])
    assert with_bad[0]["state"] == without[0]["state"]
    assert with_bad[0]["state"]["step"] == 2
    assert torch.equal(gathered(with_bad, "centre"), gathered(without, "centre"))


@pytest.mark.parametrize("name", ["cosface", "arcface", "mv-softmax", "curricularface"])
def test_a_margin_for_each_class_equals_dense(ranks, name):
    margins = torch.linspace(0.1, 0.5, CLASSES, dtype=torch.float64)
    options = options_of(name, class_margin=margins)
    batches = batches_of([2, 3, 1])
    assert_equals_dense(ranks(3).run(train, options, batches), options, batches)


@pytest.mark.parametrize("name", [name for name in MARGINS if name != "softmax"])
def test_an_ordinary_float32_run_of_a_bounded_margin_never_needs_the_maximum(name):
    """Scale 64, denormals flushed as on a GPU."""
    options = {**options_of(name, scale=64.0), "dtype": torch.float32, "compute_dtype": None}
    torch.set_flush_denormal(True)
    try:
        result = train(options, batches_of([8], steps=5))
    finally:
        torch.set_flush_denormal(False)
    for statistics in result["statistics"]:
        assert bool(statistics["committed"])
        assert not bool(statistics["used_maximum"])


def test_plain_softmax_stays_exact_where_logits_are_far_beyond_exp(ranks):
    options = {**options_of("softmax"), "learning_rate": 1e-4}
    batches = [[(1e3 * e, label) for e, label in batch] for batch in batches_of([4, 2])]
    assert_equals_dense(ranks(2).run(train, options, batches), options, batches)


@pytest.mark.parametrize("t", [0.0, 0.4, 0.75, 1.0])
@pytest.mark.parametrize("num_classes", [1000, 20000])
def test_curricularface_keeps_the_constant_shift_on_trained_cosines_in_float32(t, num_classes):
    """Target cosines 0.4 to 0.8, denormals flushed: never the bound as the shift (t > 0.5)."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    try:
        options = {
            "num_classes": num_classes,
            "embedding_dim": 64,
            "margin": CurricularFace(),
            "scale": 64.0,
            "weight_decay": 0.0,
        }
        centre = torch.nn.functional.normalize(torch.randn(num_classes, 64))
        label = torch.randint(num_classes, (32,))
        target = torch.linspace(0.4, 0.8, 32).unsqueeze(1)
        aside = torch.randn(32, 64)
        aside -= (aside * centre[label]).sum(1, keepdim=True) * centre[label]
        embedding = target * centre[label]
        embedding += (1 - target**2).sqrt() * torch.nn.functional.normalize(aside)
        blocks = [(0, {"centre": centre, "momentum": torch.zeros_like(centre)})]
        state = {"num_classes": num_classes, "embedding_dim": 64, "sub_centres": 1, "step": 0}
        result = train(options, [[(embedding, label)]], blocks, {**state, "t": t})
        statistics = result["statistics"][0]
        assert bool(statistics["committed"])
        assert not bool(statistics["used_maximum"])
        dense = dense_head([result], options)
        dense._state["t"] = torch.tensor(t, dtype=torch.float64)
        loss, gradient = dense.step(embedding.double(), label)
        # float32 logits of up to 128 round by 128 eps = 1.5e-5
        torch.testing.assert_close(result["loss"][0].double(), loss, rtol=0, atol=3e-5)
        error = (result["gradient"][0].double() - gradient).norm() / gradient.norm()
        assert error < 1e-4
    finally:
        torch.set_flush_denormal(False)
