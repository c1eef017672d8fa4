"""Rectangles that hide a part of a face: all but a window, a patch somewhere, or a medical mask.

Pure functions of the draws of `augment`; `decode` paints the rectangles. Aligned faces are taken
for granted: eyes at 0.46 of the height, the tip of the nose at 0.64, the mouth at 0.82.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

RECTANGLES = 6  # at most, of one colour; the rest are empty

BLACKOUT_AREAS = (0.2, 1.0)  # of the window that stays: AdaFace, arXiv:2204.00964, section 4.1
BLACKOUT_ASPECTS = (3 / 4, 4 / 3)
OCCLUSION_AREAS = (0.02, 0.33)  # Random Erasing, arXiv:1708.04896, in torchvision's defaults
OCCLUSION_ASPECTS = (0.3, 3.3)
MASK_TOPS = (0.50, 0.62)  # on the bridge of the nose
MASK_HALF_WIDTHS = (0.42, 0.20)  # at the top and at the chin
MASK_COLOURS = np.array(  # surgical green and blue, white and black: those of MaskTheFace
    [[68, 180, 168], [28, 160, 244], [255, 255, 255], [0, 0, 0]], np.float32
)

Draws = Mapping[str, Float64[np.ndarray, " batch"]]
"""Uniform numbers of each face by purpose."""


@dataclass(frozen=True, kw_only=True)
class Cover:
    """What hides each face: rectangles from `start` to `stop` in shares of the sides, (y, x)."""

    start: Float32[np.ndarray, "batch rectangles 2"]
    stop: Float32[np.ndarray, "batch rectangles 2"]
    colour: Float32[np.ndarray, "batch 3"]
    """RGB, 0 to 255."""

    def replaced(self, chosen: Bool[np.ndarray, " batch"], other: "Cover") -> "Cover":
        """The same with the chosen faces' covers from another."""
        return Cover(
            start=np.where(chosen[:, None, None], other.start, self.start),
            stop=np.where(chosen[:, None, None], other.stop, self.stop),
            colour=np.where(chosen[:, None], other.colour, self.colour),
        )


def nothing(faces: int) -> Cover:
    """Empty rectangles."""
    empty = np.zeros((faces, RECTANGLES, 2), np.float32)
    return Cover(start=empty, stop=empty, colour=np.zeros((faces, 3), np.float32))


def blackout(draw: Draws) -> Cover:
    """All but a window is black: the strips above, below, left and right of it."""
    top, left, bottom, right = _window(draw, BLACKOUT_AREAS, BLACKOUT_ASPECTS)
    zero, one = np.zeros_like(top), np.ones_like(top)
    return _cover(
        [
            (zero, zero, top, one),
            (bottom, zero, one, one),
            (top, zero, bottom, left),
            (top, right, bottom, one),
        ],
        np.zeros((len(top), 3)),
    )


def occlusion(draw: Draws) -> Cover:
    """A rectangle somewhere, of any colour."""
    colour = np.stack([draw["cover red"], draw["cover green"], draw["cover blue"]], axis=1)
    return _cover([_window(draw, OCCLUSION_AREAS, OCCLUSION_ASPECTS)], np.floor(256 * colour))


def mask(draw: Draws) -> Cover:
    """The face below the bridge of the nose: strips that become narrower towards the chin."""
    low, high = MASK_TOPS
    top = low + (high - low) * draw["cover y"]
    at_top, at_chin = MASK_HALF_WIDTHS
    strips = []
    for k in range(RECTANGLES):
        half = at_top - (at_top - at_chin) * (k / (RECTANGLES - 1)) ** 2  # round, as a chin is
        upper, lower = (top + (1 - top) * (k + i) / RECTANGLES for i in (0, 1))
        strips.append((upper, np.full_like(top, 0.5 - half), lower, np.full_like(top, 0.5 + half)))
    return _cover(strips, MASK_COLOURS[(draw["cover red"] * len(MASK_COLOURS)).astype(int)])


def _window(
    draw: Draws, areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(top, left, bottom, right): uniform in area, place and the logarithm of height over width.

    A side longer than the picture is cut to it.
    """
    area = areas[0] + (areas[1] - areas[0]) * draw["cover area"]
    aspect = aspects[0] * (aspects[1] / aspects[0]) ** draw["cover aspect"]
    height, width = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    top, left = draw["cover y"] * (1 - height), draw["cover x"] * (1 - width)
    return top, left, top + height, left + width


def _cover(rectangles: list[tuple[np.ndarray, ...]], colour: np.ndarray) -> Cover:
    """Rectangles (top, left, bottom, right), filled up with empty ones."""
    start = np.zeros((len(colour), RECTANGLES, 2), np.float32)
    stop = np.zeros_like(start)
    for k, (top, left, bottom, right) in enumerate(rectangles):
        start[:, k, 0], start[:, k, 1] = top, left
        stop[:, k, 0], stop[:, k, 1] = bottom, right
    return Cover(start=start, stop=stop, colour=colour.astype(np.float32))
