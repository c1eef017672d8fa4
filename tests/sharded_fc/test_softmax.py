"""Two visits over chunks: extreme logits, the constant shift, and no block of all logits."""

import math

import pytest
import torch

from sharded_fc.combine import constant_shift, sums_stay_in_range
from sharded_fc.margins import ArcFace, CosFace, UniFace
from tests.sharded_fc.on_ranks import FLOAT64, dense_head, draw_batches, join, make_head, train


def shift_of(highest, num_classes, dtype=torch.float32):
    logit = torch.tensor(highest, dtype=torch.float64)
    return float(constant_shift(logit, num_classes=num_classes, dtype=dtype))


def test_the_shift_is_zero_for_scale_64_up_to_a_hundred_million_classes():
    for num_classes in (2, 10**5, 10**8):
        assert shift_of(64.0, num_classes) == 0.0


@pytest.mark.parametrize("num_classes", [2, 10**6, 10**8])
@pytest.mark.parametrize("highest", [1.0, 64.0, 72.0, 128.0, 600.0])
def test_the_shifted_sum_of_all_classes_at_the_bound_does_not_overflow(highest, num_classes):
    shift = shift_of(highest, num_classes)
    assert highest - shift + math.log(num_classes) < math.log(torch.finfo(torch.float32).max)


@pytest.mark.parametrize(
    ("dtype", "scale", "in_range"),
    [
        (torch.float32, 64.0, True),
        (torch.float32, 82.0, True),
        (torch.float32, 84.0, False),
        (torch.float64, 600.0, True),
        (torch.float64, 800.0, False),
    ],
)
def test_bounds_prove_sums_in_range_up_to_a_scale(dtype, scale, in_range):
    assert sums_stay_in_range(scale=scale, num_classes=1000, dtype=dtype) is in_range
    if in_range:  # all cosines at -1: the smallest sum is still a normal number
        shift = shift_of(scale, 1000, dtype)
        assert -scale - shift > math.log(torch.finfo(dtype).tiny)


@pytest.mark.parametrize("scale", [90.0, 200.0, 1000.0])
def test_sums_that_leave_the_range_of_exp_fall_back_to_the_maximum_and_say_so(ranks, scale):
    """Every cosine near -1: with the constant shift all terms vanish in float32."""
    options = {"num_classes": 6, "embedding_dim": 3, "margin": CosFace(0.0), "scale": scale}
    away = torch.tensor([[-1.0, 0.01, 0.0]]).repeat(4, 1)
    batch = [(away[:2], torch.tensor([0, 3])), (away[2:], torch.tensor([1, 5]))]
    rows = torch.tensor([[1.0, 0.0, 0.0]]).repeat(6, 1) + 0.02 * torch.randn(6, 3)
    blocks = [(0, {"centre": rows, "momentum": torch.zeros(6, 3)})]
    state = {"num_classes": 6, "embedding_dim": 3, "sub_centres": 1, "step": 0}
    results = ranks(2).run(train, options, [batch], blocks, state)
    embedding, label = join(batch)
    expected = dense_head(results, {**options, "weight_decay": 0.0})
    loss, gradient = expected.step(embedding.double(), label)
    for result in results:
        statistics = result["statistics"][0]
        assert bool(statistics["committed"])
        assert bool(statistics["used_maximum"])
        # a logit of size `scale` rounds by scale x eps
        torch.testing.assert_close(
            result["loss"][0].double(), loss, rtol=0, atol=2e-7 * scale + 1e-6
        )
    ours = torch.cat([result["gradient"][0] for result in results]).double() / 2
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-6 * scale)


@pytest.mark.parametrize("scale", [64.0, 600.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("margin", [CosFace(0.35), ArcFace(0.5, gradient="straight_through")])
def test_logits_at_plus_and_minus_the_scale_equal_dense(scale, sign, margin):
    """Every embedding on its own or on another centre: probabilities of 1 and of exp(-1200)."""
    options = {
        **FLOAT64,
        "num_classes": 6,
        "embedding_dim": 4,
        "margin": margin,
        "scale": scale,
        "chunk_classes": 4,
    }
    centre = train(options, [])["rows"]["centre"]
    label = torch.arange(6)
    batches = [[(sign * centre[label] * 100, label)], [(sign * centre[label.flip(0)], label)]]
    result = train(options, batches)
    dense = dense_head([result], options)
    # CosFace: float64 defaults. ArcFace: at the poles the reference's acos holds half the digits,
    # angles of 1.5e-8 that the logits multiply by the scale, and a gradient adds up a few of them.
    tolerance = {} if isinstance(margin, CosFace) else {"rtol": 1e-7 * scale, "atol": 1e-7 * scale}
    for step, batch in enumerate(batches):
        loss, gradient = dense.step(*join(batch))
        torch.testing.assert_close(result["loss"][step], loss, **tolerance)
        torch.testing.assert_close(result["gradient"][step], gradient, **tolerance)
        assert bool(result["statistics"][step]["committed"])
    torch.testing.assert_close(result["rows"]["centre"], dense.centre.detach(), **tolerance)


@pytest.mark.parametrize("margin", [CosFace(0.35), ArcFace(0.5)])
def test_the_loss_has_no_clamp(margin):
    """arcface_torch's log(max(p, 1e-30)) stops at 69.08; here a far sample costs more."""
    head = make_head(
        {**FLOAT64, "num_classes": 3, "embedding_dim": 4, "margin": margin, "scale": 64.0}
    )
    rows = {name: torch.zeros(3, 4, dtype=torch.float64) for name in ("centre", "momentum")}
    rows["centre"][0, 0], rows["centre"][1, 0], rows["centre"][2, 1] = 1.0, -1.0, 1.0
    head.load([(0, rows)], head.state())
    embedding = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    loss = head(embedding, torch.tensor([1])).loss
    # cos(theta) - m, and ArcFace's continuation past pi - m: cos(theta) - m sin(m)
    value = -1.35 if isinstance(margin, CosFace) else -1.0 - 0.5 * math.sin(0.5)
    torch.testing.assert_close(loss.detach(), torch.tensor(64.0 - 64.0 * value).double())
    assert loss > 128


@pytest.mark.parametrize("kept_bytes", [0, 200, 10**9])
def test_products_kept_or_recomputed_give_the_same_bits(ranks, kept_bytes):
    """A chunk of 2 classes x 5 samples in float64 takes 80 bytes: none, two or all are kept."""
    options = {
        **FLOAT64,
        "num_classes": 11,
        "embedding_dim": 4,
        "margin": ArcFace(0.5),
        "chunk_classes": 2,
    }
    batches = draw_batches([3, 2], num_classes=11, dim=4, steps=2)
    expected = ranks(2).run(train, {**options, "kept_bytes": 0}, batches)
    found = ranks(2).run(train, {**options, "kept_bytes": kept_bytes}, batches)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["rows"]["centre"], other["rows"]["centre"])
        assert all(map(torch.equal, one["gradient"], other["gradient"]))


def test_a_pass_whose_kept_products_were_overwritten_recomputes_them():
    options = {**FLOAT64, "num_classes": 7, "embedding_dim": 4, "margin": CosFace(0.35)}
    (((embedding, label),),) = draw_batches([5], num_classes=7, dim=4)
    (((other, other_label),),) = draw_batches([5], num_classes=7, dim=4, seed=1)
    plain, disturbed = make_head(options), make_head(options)
    plain(embedding.requires_grad_(), label).loss.backward()
    loss = disturbed(embedding.detach(), label).loss
    disturbed(other, other_label)  # its products take the place
    loss.backward()
    for one, two in zip(plain.rows(), disturbed.rows(), strict=True):
        assert torch.equal(one[1]["centre"], two[1]["centre"])


@pytest.mark.parametrize("margin", [ArcFace(0.5), UniFace()], ids=["softmax", "sigmoid"])
def test_no_tensor_as_large_as_all_logits_or_a_full_gradient_is_made(margin):
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = out if isinstance(out, (list, tuple)) else [out]
            sizes.extend(t.numel() for t in tensors if isinstance(t, torch.Tensor))
            return out

    num_classes, dim, batch, chunk = 1000, 8, 40, 50
    head = make_head(
        {
            "num_classes": num_classes,
            "embedding_dim": dim,
            "margin": margin,
            "chunk_classes": chunk,
            "kept_bytes": 0,
        }
    )
    ((embedding, label),) = draw_batches([batch], num_classes=num_classes, dim=dim)[0]
    leaf = embedding.float().requires_grad_()
    head(leaf, label)  # the first reading makes the rows
    with Record():
        head(leaf, label).loss.backward()
    # The largest thing made is a chunk's logits, or one number a class (the inverse norms).
    assert max(sizes) == max(chunk * batch, num_classes)
    assert max(sizes) < num_classes * dim
