"""First values of the centres: a counter-based hash of (seed, row, column).

Integer arithmetic and one multiplication, so a row starts from the same bits at any world size,
chunk size, device and torch version. No generator, no logarithm, no cosine.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sharded_fc import native
from sharded_fc.counter import GOLDEN, HASHES, centred_sum, extend, key_of, signed
from sharded_fc.partition import chunks

# The scale of the published recipes (arcface_torch, PLSC), whose learning rates assume it: rows are
# normalised in the forward, so a row of length r turns by learning_rate / r^2 times the gradient.
INITIAL_STD = 0.01

_CPU_BLOCK = 1 << 16  # elements: 512 KiB of int64, so that the passes below stay in cache
_ACCELERATOR_BLOCK = 1 << 22  # few launches


def initial_rows(
    start: int, stop: int, *, embedding_dim: int, seed: int, device: torch.device
) -> Float[Tensor, "rows dim"]:
    """Rows [start, stop) of the global table: close to normal(0, 0.01), float32.

    Each value is a sum of twelve 16-bit uniforms (Irwin-Hall), so it stays within six deviations.
    """
    number = torch.arange(start, stop, dtype=torch.int64, device=device)
    return initial_rows_of(number, embedding_dim=embedding_dim, seed=seed)


def initial_rows_of(
    number: Int64[Tensor, " rows"], *, embedding_dim: int, seed: int
) -> Float[Tensor, "rows dim"]:
    """`initial_rows` of any global numbers, on their device."""
    device = number.device
    rows = torch.empty(len(number), embedding_dim, dtype=torch.float32, device=device)
    seed_key, scale = key_of(seed), INITIAL_STD / 65536
    if native.initial_rows(rows, number=number, seed_key=seed_key, scale=scale):
        return rows
    counters = torch.arange(1, HASHES * embedding_dim + 1, dtype=torch.int64, device=device)
    offsets = counters.mul_(signed(GOLDEN)).view(HASHES, embedding_dim)
    elements = _CPU_BLOCK if device.type == "cpu" else _ACCELERATOR_BLOCK
    block = max(1, elements // embedding_dim)
    for first, last in chunks(len(number), block):
        total = centred_sum(extend(seed_key, number[first:last]).unsqueeze(1), offsets)
        centred = total.to(torch.float32)  # exact: below 2^24
        rows[first:last] = centred.mul_(scale)
    return rows
