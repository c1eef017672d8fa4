"""Whole steps of the head with kernels, in the interpreter, beside those of plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.sharded_fc.kernels.interpreter import Interpreter


def two_steps(kernels_used: Any, dtype: torch.dtype, compute_dtype: torch.dtype) -> list[Tensor]:
    """Losses, embedding gradients and rows of two steps; a CPU counts as a device with kernels."""
    from sharded_fc import ShardedHead, kernels
    from sharded_fc.kernels import cuda
    from sharded_fc.margins import ArcFace

    choose, kernels.choose = kernels.choose, lambda device: cuda
    try:
        head = ShardedHead(
            300,
            24,
            margin=ArcFace(0.5),
            scale=32.0,
            learning_rate=0.1,
            chunk_classes=130,
            kernels=kernels_used,
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


@pytest.mark.parametrize("kernels_used", ["elementwise", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_steps_with_kernels_equal_those_without(
    interpreter: Interpreter, kernels_used: str, dtype: torch.dtype
):
    found = interpreter(two_steps, kernels_used, dtype, torch.float32)
    expected = interpreter(two_steps, "torch", dtype, torch.float32)
    # float32 sums in another order. Rows in bfloat16 may round the other way where the sums
    # differ: by 2^-7 of the value, which moves the next step.
    rtol, atol = (1e-4, 1e-6) if dtype == torch.float32 else (2**-7, 1e-4)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kernels_used", ["elementwise", "fused"])
def test_steps_with_float16_operands_err_no_more_with_kernels_than_without(
    interpreter: Interpreter, kernels_used: str
):
    truth = interpreter(two_steps, "torch", torch.float32, torch.float32)
    found = interpreter(two_steps, kernels_used, torch.float32, torch.float16)
    plain = interpreter(two_steps, "torch", torch.float32, torch.float16)
    for ours, theirs, exact in zip(found, plain, truth, strict=True):
        error, allowed = ((x - exact).norm() / exact.norm() for x in (ours, theirs))
        # Both round the same operands; kernels keep products in float32 where a CPU rounds them.
        assert error <= 1.2 * allowed + 1e-6
