"""Low precision: our error to float64 is no larger than the naive head's in the same precision.

The naive head is the dense one with every tensor in that dtype. One draw is a toss-up where both
round the same operands, so over many draws the mean difference of the errors must not exceed two
of its standard errors.
"""

import pytest
import torch

from sharded_fc.margins import ArcFace, CosFace
from sharded_fc.operands import Operands
from sharded_fc.reference import dense_loss
from sharded_fc.tile import Weights
from tests.sharded_fc.on_ranks import draw_batches, gathered, join, make_head, train

NAMES = ("loss", "embedding gradient", "row gradient")


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_operands_err_no_more_than_the_dense_head_in_that_dtype(ranks, world, dtype):
    pairs = torch.tensor([errors(ranks, world, seed, compute_dtype=dtype) for seed in range(12)])
    assert_no_worse(pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_two_byte_rows_err_no_more_than_the_dense_head_in_that_dtype(ranks, dtype):
    options = {"dtype": dtype, "state_dtype": torch.float32, "compute_dtype": dtype}
    pairs = torch.tensor([errors(ranks, 1, seed, **options) for seed in range(12)])
    assert_no_worse(pairs)


@pytest.mark.parametrize("world", [1, 3])
def test_float32_errs_by_the_rounding_of_its_logits(ranks, world):
    """A logit of size 64 rounds by up to 64 eps, which is its exponential's relative error."""
    ours = [ours for ours, _ in zip(*errors(ranks, world, 0), strict=True)]
    assert max(ours) < 64 * torch.finfo(torch.float32).eps


def assert_no_worse(pairs):
    assert pairs[:, 0].isfinite().all()
    # Where the naive head in float16 makes what is not a number, count all as lost.
    pairs = pairs.nan_to_num(nan=1.0)
    excess = pairs[:, 0] - pairs[:, 1]
    standard_error = excess.std(0) / len(excess) ** 0.5
    for name, mean, spread in zip(NAMES, excess.mean(0), standard_error, strict=True):
        assert mean <= 2 * spread, f"{name}: {mean:.2e} more than the naive head, +-{spread:.2e}"


def errors(ranks, world, seed, **precision):
    """Relative errors of loss, embedding and row gradient: (ours, the naive head's)."""
    options = {
        "num_classes": 301,
        "embedding_dim": 32,
        "margin": ArcFace(0.5),
        "scale": 64.0,
        "chunk_classes": 64,
        "weight_decay": 0.0,
        **precision,
    }
    batches = draw_batches([12] * world, num_classes=301, dim=32, seed=seed)
    batches = [[(e.float(), label) for e, label in batch] for batch in batches]
    results = ranks(world).run(train, options, batches)
    embedding, label = join(batches[0])
    initial = torch.cat([result["initial"]["centre"] for result in results])

    def dense(dtype):
        leaf = embedding.to(dtype, copy=True).requires_grad_()
        centre = initial.to(dtype, copy=True).requires_grad_()
        loss = dense_loss(leaf, centre, label, margin=options["margin"], scale=64.0)
        loss.backward()
        assert leaf.grad is not None
        assert centre.grad is not None
        return [t.detach().double() for t in (loss, leaf.grad, centre.grad)]

    ours = [
        results[0]["loss"][0].double(),
        torch.cat([result["gradient"][0] for result in results]).double() / world,
        gathered(results, "momentum").double(),  # the first step's row gradient
    ]
    truth = dense(torch.float64)
    naive = dense(precision.get("compute_dtype", torch.float32))
    return [
        [float((x - true).norm() / true.norm()) for x, true in zip(found, truth, strict=True)]
        for found in (ours, naive)
    ]


def test_float16_gradients_far_below_its_smallest_number_are_not_lost():
    """Probabilities near 1e-6 over a batch of 64 are 1.6e-8: zero in float16 but for the scale."""
    torch.manual_seed(0)
    centre = torch.randn(200, 16)
    operands = Operands(200, 64, centre, working=torch.float32, compute=torch.float16)
    embedding = torch.nn.functional.normalize(torch.randn(64, 16))
    operands.load(embedding)
    probability = 1e-6 * torch.rand(200, 64)
    factor = torch.tensor(1 / 64)
    weights = Weights(offset=torch.zeros(64), target=torch.zeros(64), factor=factor)
    fitted = operands.fit(weights, torch.ones(()), sigmoid=False)
    power = fitted.offset.exp()
    assert torch.equal(power.round(), torch.full((64,), 2.0**14))
    ones = torch.ones(200)
    rows = operands.rows(centre, 1 / centre.norm(dim=1))
    total = torch.zeros(64, 16)
    operands.add_embedding_gradient(total, probability * power, rows)
    found = operands.row_gradients(probability * power, ones)
    exact = probability * factor
    # float16 has eleven bits; sums of 200 and of 64 terms of one sign and of both
    unit = torch.nn.functional.normalize(centre)
    torch.testing.assert_close(found, exact @ embedding, rtol=0.02, atol=2e-8)
    torch.testing.assert_close(total, exact.t() @ unit, rtol=0.02, atol=2e-8)
    assert not (exact.half() != 0).any()  # what casting alone would leave


def test_float16_survives_targets_whose_slope_is_steep():
    """A face on its own centre: the ArcFace slope is some 2,900, times 2^14 beyond float16."""
    head = make_head(
        {
            "num_classes": 50,
            "embedding_dim": 8,
            "margin": ArcFace(0.5),
            "scale": 8.0,
            "compute_dtype": torch.float16,
            "weight_decay": 0.0,
        }
    )
    ((_, rows),) = list(head.rows())
    label = torch.tensor([3, 4, 5])
    embedding = (rows["centre"][label] * 100).requires_grad_()
    head(embedding, label).loss.backward()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()
    ((_, after),) = list(head.rows())
    assert after["centre"].isfinite().all()
    assert after["momentum"].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rowwise"])
def test_two_byte_rows_learn_and_do_not_depend_on_world_or_chunk(ranks, dtype, optimizer):
    options = {
        "num_classes": 9,
        "embedding_dim": 8,
        "margin": CosFace(0.2),
        "scale": 8.0,
        "dtype": dtype,
        "optimizer": optimizer,
        "learning_rate": 0.02,
        "weight_decay": 0.0,
    }
    (batch,) = draw_batches([6], num_classes=9, dim=8)
    batches = [[(e.float(), label) for e, label in batch]] * 8
    whole = ranks(1).run(train, options, batches)
    assert whole[0]["loss"][-1] < whole[0]["loss"][0]
    chunked = ranks(1).run(train, {**options, "chunk_classes": 2}, batches)
    # Sums in another order differ in float32's last place, which stochastic rounding turns into a
    # step of the stored dtype here and there: most numbers stay the same bits.
    same = (gathered(chunked, "centre") == gathered(whole, "centre")).double().mean()
    assert same > 0.98
