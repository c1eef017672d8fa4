"""Which weights meet which positions in a translation-variant product: integers alone.

A tap is a weight at an output position and the input position that it is multiplied with; taps
that would fall on the padding are left out. Forward and transposed product differ in nothing but
by which of the two positions their taps are grouped.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

Size = tuple[int, int]


def out_size(in_size: Size, stride: int) -> Size:
    """Of the output of an odd kernel over an input padded by half of it."""
    height, width = in_size
    return -(-height // stride), -(-width // stride)


@dataclass(frozen=True)
class TapTable:
    """Taps in the order of their targets; those of target u are first[u], ..., first[u + 1] - 1.

    `row` is the number of a tap's weights, output position * kernel^2 + place in the kernel, and
    `source` the position of what they are multiplied with.
    """

    first: Int64[ndarray, " targets_and_one"]
    row: Int64[ndarray, " taps"]
    source: Int64[ndarray, " taps"]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A square odd kernel over an input of `in_size` (height, width), padded by half of it."""

    in_size: Size
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        """Zeros on each side of the input."""
        return self.kernel // 2

    @property
    def out_size(self) -> Size:
        """Of the output."""
        return out_size(self.in_size, self.stride)

    @cached_property
    def forward(self) -> TapTable:
        """By output position, in the kernel's order: sources are input positions."""
        row, source = self._taps
        return _grouped(row // self.kernel**2, self.out_size, row=row, source=source)

    @cached_property
    def transposed(self) -> TapTable:
        """By input position, in the kernel's order: sources are output positions."""
        row, target = self._taps
        order = np.lexsort((row % self.kernel**2, target))
        row, target = row[order], target[order]
        return _grouped(target, self.in_size, row=row, source=row // self.kernel**2)

    @property
    def _taps(self) -> tuple[Int64[ndarray, " taps"], Int64[ndarray, " taps"]]:
        """Row of weights and input position of every tap, by output position."""
        (height, width), (out_height, out_width) = self.in_size, self.out_size
        place = np.arange(self.kernel) - self.padding
        y = np.arange(out_height)[:, None, None, None] * self.stride + place[:, None]
        x = np.arange(out_width)[:, None, None] * self.stride + place
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return np.flatnonzero(inside), (y * width + x)[inside]


def _grouped(target: ndarray, size: Size, *, row: ndarray, source: ndarray) -> TapTable:
    counts = np.bincount(target, minlength=size[0] * size[1])
    return TapTable(np.concatenate(([0], np.cumsum(counts))), row, source)


@lru_cache(maxsize=256)
def geometry(in_size: Size, kernel: int, stride: int) -> Geometry:
    """The geometry of these numbers; its tables are made once."""
    return Geometry(in_size=in_size, kernel=kernel, stride=stride)
