"""What this machine can do at best: matrix products of a head's shapes, and copies of memory.

Products are timed on operands that stay in cache, at several numbers of rows; the fastest counts.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

ROWS = (512, 1024, 2048, 4096)
COPIED_ITEMS = 64 << 20  # 256 MiB of float32: far more than any cache
LEAST_S = 0.1


def product_seconds(*, dim: int, batch: int, dtype: torch.dtype) -> float:
    """Seconds of one class's share of a step's four products: 8 dim batch operations.

    They are rows x embeddings, twice; gradients x rows; gradients x embeddings.
    """
    embedding = torch.randn(batch, dim).to(dtype)
    total = 0.0
    for weight, shape in ((2, "products"), (1, "embedding gradient"), (1, "row gradients")):
        fastest = float("inf")
        for rows in ROWS:
            centre = torch.randn(rows, dim).to(dtype)
            gradient = torch.randn(rows, batch).to(dtype)
            operands = {
                "products": (centre, embedding.t()),
                "embedding gradient": (gradient.t(), centre),
                "row gradients": (gradient, embedding),
            }[shape]
            out = torch.mm(*operands)
            seconds = _seconds(lambda a=operands, out=out: torch.mm(*a, out=out))
            fastest = min(fastest, seconds / rows)
        total += weight * fastest
    return total


def copy_rate() -> float:
    """Bytes a second read and written, together, by a copy."""
    source = torch.zeros(COPIED_ITEMS)
    to = torch.ones_like(source)
    return 2 * source.nbytes / _seconds(lambda: to.copy_(source))


def best_product_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large square product."""
    square = torch.randn(2048, 2048).to(dtype)
    out = torch.empty_like(square)
    return 2 * 2048**3 / _seconds(lambda: torch.mm(square, square, out=out))


def _seconds(work: Callable[[], object]) -> float:
    """The median of calls over at least `LEAST_S`, after one that is not counted."""
    work()
    times: list[float] = []
    while sum(times) < LEAST_S or len(times) < 3:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times)
