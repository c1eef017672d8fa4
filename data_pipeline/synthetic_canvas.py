"""Paint antialiased shapes with numpy: what the synthetic faces are drawn with.

A shape is a signed distance (negative inside, in head units) and becomes a coverage in [0, 1] one
pixel soft. Pixels are computed with addition, multiplication, division, square root and comparison
alone, one numpy call each: IEEE 754 fixes the result of each, so the same picture comes out on
every machine. Sines, powers, matrix products and numpy's sums are avoided for that reason.
Nothing here knows what a face is.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

Plane: TypeAlias = Float32[np.ndarray, "height width"]
Planes: TypeAlias = Float32[np.ndarray, "3 height width"]
Colour: TypeAlias = Sequence[float]
Box: TypeAlias = tuple[slice, slice]

EVERYWHERE: Box = (slice(None), slice(None))


class Canvas:
    """A picture being painted: three float32 planes, and the softness of one pixel."""

    def __init__(self, size: int, *, pixel: float, colour: Colour) -> None:
        """A square of `size` pixels, each `pixel` head units wide, filled with one colour."""
        self.pixels = np.empty((3, size, size), np.float32)
        for plane, value in zip(self.pixels, colour, strict=True):
            plane.fill(value)
        self._per_pixel = np.float32(1 / pixel)

    def coverage(self, distance: Plane, *, softness: float = 1.0) -> Plane:
        """How much of each pixel lies inside; the edge is `softness` pixels wide."""
        inside = distance * (-self._per_pixel / np.float32(softness))
        inside += np.float32(0.5)
        return np.minimum(np.maximum(inside, np.float32(0), out=inside), np.float32(1), out=inside)

    def paint(self, coverage: Plane, colour: Colour, box: Box = EVERYWHERE) -> None:
        """Lay a colour over the pixels of a box, by coverage."""
        for plane, value in zip(self.pixels[:, *box], colour, strict=True):
            plane += coverage * (np.float32(value) - plane)

    def shade(self, factor: Plane, box: Box = EVERYWHERE) -> None:
        """Darken or brighten the pixels of a box."""
        self.pixels[:, *box] *= factor


def ellipse(x: Plane, y: Plane, width: float, height: float) -> Plane:
    """Distance from an ellipse about the origin, given half its width and half its height.

    Exact on the edge and of about the right slope near it, which is all that coverage looks at.
    """
    across = x * np.float32(1 / width)
    down = y * np.float32(1 / height)
    radius = np.sqrt(across * across + down * down)
    radius -= np.float32(1)
    radius *= np.float32(min(width, height))
    return radius


def arch(x: Plane, y: Plane, width: float, height: float) -> Plane:
    """Distance below a parabola of this height that meets y = 0 at plus and minus `width`.

    Negative beneath the curve; a negative height hangs. The slope at the foot is divided out.
    """
    steepness = 1 / np.sqrt(1 + (height / width) * (height / width))
    across = x * np.float32(1 / width)
    top = np.float32(-height) * (np.float32(1) - across * across)
    return (top - y) * np.float32(steepness)


def block(x: Plane, y: Plane, width: float, height: float, *, corner: float = 0.0) -> Plane:
    """Distance from a rectangle about the origin, given half its sides, with rounded corners."""
    across = np.abs(x) - np.float32(width - corner)
    down = np.abs(y) - np.float32(height - corner)
    if corner == 0.0:
        return np.maximum(across, down)
    inside = np.minimum(np.maximum(across, down), np.float32(0))
    across = np.maximum(across, np.float32(0))
    down = np.maximum(down, np.float32(0))
    return np.sqrt(across * across + down * down) + inside - np.float32(corner)


def soften(pixels: Planes, weight: float) -> Planes:
    """Blur along both axes, each pixel giving `weight` / 2 of its light to either neighbour."""
    centre, side = np.float32(1 - weight), np.float32(weight / 2)
    padded = np.pad(pixels, ((0, 0), (1, 1), (0, 0)), mode="edge")
    pixels = pixels * centre + (padded[:, :-2] + padded[:, 2:]) * side
    padded = np.pad(pixels, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return pixels * centre + (padded[:, :, :-2] + padded[:, :, 2:]) * side
