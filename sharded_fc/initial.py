"""First values of the centres: a counter-based hash of (seed, class, column).

Integer arithmetic and one multiplication, so a class starts from the same bits at any world size,
chunk size, device and torch version. No generator, no logarithm, no cosine.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# The scale of the published recipes (arcface_torch, PLSC), whose learning rates assume it: rows are
# normalised in the forward, so a row of length r turns by learning_rate / r^2 times the gradient.
INITIAL_STD = 0.01

_GOLDEN = 0x9E3779B97F4A7C15  # splitmix64 (Steele, Lea, Flood 2014): its increment and multipliers
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_LOW_HALVES = 0x0000FFFF0000FFFF
_HASHES = 3  # times four 16-bit pieces: twelve uniforms, whose sum has variance 1
_BLOCK_ELEMENTS = 1 << 16  # 512 KiB of int64: the passes below stay in cache


def initial_rows(
    start: int, stop: int, *, embedding_dim: int, seed: int, device: torch.device
) -> Float[Tensor, "rows dim"]:
    """Rows of classes [start, stop): close to normal(0, 0.01), float32.

    Each value is a sum of twelve 16-bit uniforms (Irwin-Hall), so it stays within six deviations.
    """
    rows = torch.empty(stop - start, embedding_dim, dtype=torch.float32, device=device)
    steps = torch.arange(1, _HASHES * embedding_dim + 1, dtype=torch.int64, device=device)
    steps = steps.mul_(_signed(_GOLDEN)).view(_HASHES, embedding_dim)
    seed_key = _mix_int(seed)
    block = max(1, _BLOCK_ELEMENTS // embedding_dim)
    for first in range(start, stop, block):
        last = min(first + block, stop)
        classes = torch.arange(first, last, dtype=torch.int64, device=device)
        class_key = _mix(classes.mul_(_signed(_GOLDEN)).add_(_signed(seed_key))).unsqueeze(1)
        halves = torch.zeros(last - first, embedding_dim, dtype=torch.int64, device=device)
        for offset in steps:
            bits = _mix(class_key + offset)
            halves += bits & _LOW_HALVES
            halves += (bits >> 16) & _LOW_HALVES
        total = (halves & 0xFFFFFFFF) + (halves >> 32)
        centred = total.sub_(4 * _HASHES * 65535 // 2).to(torch.float32)  # exact: below 2^24
        rows[first - start : last - start] = centred.mul_(INITIAL_STD / 65536)
    return rows


def _mix(key: Tensor) -> Tensor:
    """splitmix64's finaliser, in place; int64 wraps like uint64 but shifts in the sign."""
    key ^= (key >> 30) & ((1 << 34) - 1)
    key *= _signed(_MULTIPLIERS[0])
    key ^= (key >> 27) & ((1 << 37) - 1)
    key *= _signed(_MULTIPLIERS[1])
    key ^= (key >> 31) & ((1 << 33) - 1)
    return key


def _mix_int(key: int) -> int:
    key = (key + _GOLDEN) % (1 << 64)
    key = (key ^ (key >> 30)) * _MULTIPLIERS[0] % (1 << 64)
    key = (key ^ (key >> 27)) * _MULTIPLIERS[1] % (1 << 64)
    return key ^ (key >> 31)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
