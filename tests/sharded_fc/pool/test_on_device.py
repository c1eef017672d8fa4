"""The pool on a CUDA device; the same pool on the CPU is the reference."""

import pytest
import torch

from sharded_fc.margins import CosFace
from sharded_fc.pool import PoolHead, PoolView


@pytest.mark.gpu
def test_a_pool_on_the_device_equals_one_on_the_cpu():
    """In float64, so that only the order of additions differs."""
    generator = torch.Generator().manual_seed(0)
    pools = [
        PoolHead(
            300,
            16,
            slots=50,
            margin=CosFace(0.2),
            scale=16.0,
            device=device,
            dtype=torch.float64,
            chunk_slots=20,
        )
        for device in ("cpu", "cuda")
    ]
    for _ in range(5):
        numbers = torch.randn(2, 2, 24, 16, generator=generator, dtype=torch.float64)
        label = torch.randint(300, (2, 24), generator=generator)
        found = []
        for pool in pools:
            probe = numbers[0].to(pool.device).requires_grad_()
            views = [
                PoolView(probe[view], numbers[1][view].to(pool.device), label[view])
                for view in (0, 1)
            ]
            loss = pool(*views).loss
            loss.backward()
            assert probe.grad is not None
            found.append([loss.detach().cpu(), probe.grad.cpu(), list(pool.rows())])
        torch.testing.assert_close(found[1], found[0])
