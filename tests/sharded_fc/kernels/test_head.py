"""Whole steps of the head with kernels, in the interpreter, beside those of plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.sharded_fc.kernels.interpreter import Interpreter


def two_steps(
    kernels_used: Any,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
    loss: str = "softmax",
    kept_bytes: int | None = None,
) -> list[Tensor]:
    """Losses, embedding gradients and rows of two steps; a CPU counts as a device with kernels."""
    from sharded_fc import ShardedHead, kernels
    from sharded_fc.kernels import cuda
    from sharded_fc.margins import ArcFace, UniFace

    margin = ArcFace(0.5)
    if loss == "sigmoid":
        # A bias so high that few negatives weigh much: a CPU sums up gradients in float16.
        margin = UniFace(0.4, negative_weight=0.7, initial_bias=16.0)
    choose, kernels.choose = kernels.choose, lambda device: cuda
    try:
        head = ShardedHead(
            300,
            24,
            margin=margin,
            scale=32.0,
            learning_rate=0.1,
            chunk_classes=130,
            kernels=kernels_used,
            kept_bytes=kept_bytes,
            dtype=dtype,
            compute_dtype=compute_dtype,
        )
    finally:
        kernels.choose = choose
    generator = torch.Generator().manual_seed(0)
    answers = []
    for _ in range(2):
        embedding = torch.randn(19, 24, generator=generator).requires_grad_()
        label = torch.randint(300, (19,), generator=generator)
        output = head(embedding, label)
        output.loss.backward()
        answers += [output.loss.detach(), embedding.grad]
    return [*answers, *(block["centre"].float() for _, block in head.rows())]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kernels_used", ["elementwise", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_with_kernels_equal_those_without(
    interpreter: Interpreter, kernels_used: str, dtype: torch.dtype, loss: str
):
    found = interpreter(two_steps, kernels_used, dtype, torch.float32, loss)
    expected = interpreter(two_steps, "torch", dtype, torch.float32, loss)
    # float32 sums in another order. Rows in bfloat16 may round the other way where the sums
    # differ: by 2^-7 of the value, which moves the next step.
    rtol, atol = (1e-4, 1e-6) if dtype == torch.float32 else (2**-7, 1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kernels_used", ["elementwise", "fused"])
def test_steps_with_float16_operands_err_no_more_with_kernels_than_without(
    interpreter: Interpreter, kernels_used: str, loss: str
):
    truth = interpreter(two_steps, "torch", torch.float32, torch.float32, loss)
    found = interpreter(two_steps, kernels_used, torch.float32, torch.float16, loss)
    plain = interpreter(two_steps, "torch", torch.float32, torch.float16, loss)
    for ours, theirs, exact in zip(found, plain, truth, strict=True):
        error, allowed = ((x - exact).norm() / exact.norm() for x in (ours, theirs))
        # Both round the same operands; kernels keep products in float32 where a CPU rounds them.
        assert error <= 1.2 * allowed + 1e-6


# Of three chunks none, one, and all are kept, at 2 bytes for each of 130 classes x 19 samples.
@pytest.mark.parametrize("kept_bytes", [0, 2 * 130 * 19 + 1, None])
@pytest.mark.parametrize("kernels_used", ["torch", "elementwise", "fused"])
def test_gradients_kept_in_float16_on_a_device_are_those_made_again(
    interpreter: Interpreter, kernels_used: str, kept_bytes: int | None
):
    given = (two_steps, kernels_used, torch.float32, torch.float16, "sigmoid")
    for ours, theirs in zip(interpreter(*given, kept_bytes), interpreter(*given, 0), strict=True):
        assert torch.equal(ours, theirs)
