"""Memory for batches that is used again once nothing refers to the batch any more.

Memory fresh from the kernel is cleared by it page by page, which for a batch of float pixels takes
about as long as everything else that the loader does to it besides decoding.
"""

import weakref

import numpy as np
from jaxtyping import Float32

MOST_FREE = 8  # a loader has about that many batches alive


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


def _take_back(free: list[np.ndarray], memory: np.ndarray) -> None:
    if len(free) < MOST_FREE:
        free.append(memory)
