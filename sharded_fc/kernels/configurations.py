"""How large a tile one program works on, and with how many threads.

The tables hold what compiles without spilling registers (`compile_check` sees to that); which of
them is fastest is for `make gpu-check` to say.
"""

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True, kw_only=True)
class Tile:
    """`rows` x `samples` of products by `warps` of 32 threads.

    A kernel that makes the products itself takes `depth` columns of embeddings at a time, keeps
    `stages` of them on their way, and works on its tile in `parts`, of as many registers less.
    """

    rows: int
    samples: int
    warps: int
    depth: int | None = None
    stages: int = 1
    parts: int = 1

    def grid(self, num_rows: int, batch: int) -> tuple[int, int]:
        """Programs along rows and along samples."""
        return -(-num_rows // self.rows), -(-batch // self.samples)

    @property
    def arguments(self) -> dict[str, int]:
        """What a kernel's launch takes."""
        shape = {"ROWS": self.rows, "SAMPLES": self.samples, "num_warps": self.warps}
        if self.depth is None:
            return shape
        return {**shape, "DEPTH": self.depth, "PARTS": self.parts, "num_stages": self.stages}


# 16 products a thread: few registers, so many blocks at a time keep the memory busy.
ELEMENTWISE = Tile(rows=64, samples=64, warps=8)

# Tiles of 32, 64 and 128 registers a thread. The widest needs the instructions of sm_90, which read
# both operands from shared memory, and reads least: 85 operations for each byte out of the cache.
_NARROW = Tile(rows=128, samples=64, depth=64, warps=8, stages=3)
_SQUARE = Tile(rows=128, samples=128, depth=64, warps=8, stages=3, parts=2)
_WIDE = Tile(rows=128, samples=256, depth=64, warps=8, stages=3, parts=4)
_FULL_PRECISION = Tile(rows=64, samples=64, depth=16, warps=4, stages=3)

HALF_TILES = {80: (_NARROW, _SQUARE), 90: (_NARROW, _SQUARE, _WIDE)}
FLOAT32_TILES = {80: (_FULL_PRECISION,), 90: (_FULL_PRECISION,)}


def fused_tile(dtype: torch.dtype, batch: int, architecture: int) -> Tile:
    """The widest tile that a batch fills, for operands of `dtype`; 80 serves other devices too."""
    tiles = (FLOAT32_TILES if dtype == torch.float32 else HALF_TILES)[architecture]
    filled = [tile for tile in tiles if tile.samples <= batch]
    return filled[-1] if filled else tiles[0]


def power_of_two(number: int) -> int:
    """The first that is not less."""
    return 1 << (number - 1).bit_length()


@cache
def architecture(device: torch.device) -> int:
    """90 for devices with sm_90's instructions, else 80."""
    return 90 if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9 else 80
