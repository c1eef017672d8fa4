"""Two visits over chunks: extreme logits, the constant shift, and no block of all logits."""

import math

import pytest
import torch

from sharded_fc.margins import ArcFace, CosFace
from sharded_fc.softmax import constant_shift
from tests.sharded_fc.on_ranks import FLOAT64, dense_head, draw_batches, join, make_head, train


def test_the_shift_is_zero_for_scale_64_up_to_a_hundred_million_classes():
    for num_classes in (2, 10**5, 10**8):
        assert constant_shift(scale=64.0, num_classes=num_classes, dtype=torch.float32) == 0.0


@pytest.mark.parametrize("num_classes", [2, 10**6])
@pytest.mark.parametrize(
    ("dtype", "scales"), [(torch.float32, (1.0, 64.0, 72.0)), (torch.float64, (600.0,))]
)
def test_sums_at_both_ends_of_the_cosines_are_normal_numbers(num_classes, dtype, scales):
    info = torch.finfo(dtype)
    for scale in scales:
        shift = constant_shift(scale=scale, num_classes=num_classes, dtype=dtype)
        assert scale - shift + math.log(num_classes) < math.log(info.max)
        assert -scale - shift > math.log(info.tiny)


def test_a_scale_past_the_range_of_exp_is_refused_with_the_largest_that_works():
    with pytest.raises(ValueError, match=r"scale 100.0 with 1000 classes .* use at most 82"):
        constant_shift(scale=100.0, num_classes=1000, dtype=torch.float32)
    constant_shift(scale=82.0, num_classes=1000, dtype=torch.float32)


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
    value, _ = margin.target(torch.tensor([-1.0], dtype=torch.float64))
    torch.testing.assert_close(loss.detach(), 64.0 - 64.0 * value[0])
    assert loss > 128


def test_no_tensor_as_large_as_all_logits_or_a_full_gradient_is_made():
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
            "margin": ArcFace(0.5),
            "chunk_classes": chunk,
        }
    )
    ((embedding, label),) = draw_batches([batch], num_classes=num_classes, dim=dim)[0]
    leaf = embedding.float().requires_grad_()
    with Record():
        head(leaf, label).loss.backward()
    # The largest thing made is a chunk's logits, or one number a class (the inverse norms).
    assert max(sizes) == max(chunk * batch, num_classes)
    assert max(sizes) < num_classes * dim
