"""The pixels of a batch as numbers from -1 to 1, in memory that is used again.

Memory fresh from the kernel is cleared by it page by page, which for a batch of float pixels takes
about as long as everything else that the loader does to it besides decoding. So a batch's memory
comes back once nothing refers to the batch any more.
"""

import weakref

import numpy as np
from jaxtyping import Float32, Int64, UInt8

MIDDLE = np.float32(127.5)  # maps 0..255 to -1..1, as published face models expect
MOST_FREE = 8  # a loader has about that many batches alive
FACES_IN_CACHE = 4  # 150 kB each where they are 112 x 112


class Buffers:
    """Lends float32 arrays; one comes back by itself when its last tensor or view is gone."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """An array of this shape that nobody else has, its values left over or undefined."""
        memory = None
        while self._free and memory is None:
            memory = self._free.pop()
            if memory.shape != shape:
                memory = None
        if memory is None:
            memory = np.empty(shape, np.float32)
        lent = memory.view()
        weakref.finalize(lent, _take_back, self._free, memory).atexit = False
        return lent


def scale(
    level: UInt8[np.ndarray, "batch 3 height width"],
    scaled: Float32[np.ndarray, "batch 3 height width"],
) -> None:
    """Write (level - 127.5) / 127.5 to `scaled`, a few faces at a time while they are in cache."""
    for first in range(0, len(level), FACES_IN_CACHE):
        part = scaled[first : first + FACES_IN_CACHE]
        np.copyto(part, level[first : first + FACES_IN_CACHE])  # converting alone is fastest
        np.subtract(part, MIDDLE, out=part)
        np.divide(part, MIDDLE, out=part)


def recolour(
    scaled: Float32[np.ndarray, "batch 3 height width"],
    chosen: Int64[np.ndarray, " chosen"],
    matrix: Float32[np.ndarray, "chosen 3 3"],
    offset: Float32[np.ndarray, " chosen"],
) -> None:
    """Apply a matrix and an offset to the colours of each chosen face, in place."""
    for face, turn, add in zip(chosen.tolist(), matrix, offset, strict=True):
        pixels = scaled[face].reshape(3, -1)
        np.add(turn @ pixels, add, out=pixels)


def _take_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    if len(free) < MOST_FREE:
        free.append(memory)
