"""Where the head is in the picture: from a pixel to a place on the face, and back.

The head is an ellipsoid that is turned (yaw), nodded (pitch), tilted (roll), moved and scaled, and
seen without perspective. Drawing asks backwards, "which place of the face does this pixel show?",
so foreshortening comes by itself; the way forward only finds the few pixels that a feature touches.
"""

import math

import numpy as np

from data_pipeline.synthetic_canvas import Box, Plane
from data_pipeline.synthetic_traits import Conditions

HEAD_UNITS_PER_HALF_PICTURE = 1.04
ACROSS, DOWN, DEPTH = 0.80, 1.05, 0.62  # the ellipsoid's half axes, in head units
LEAST_FACING = 0.03  # keeps the places beyond the ellipsoid's rim finite


class Pose:
    """The planes of coordinates of one picture.

    `x`, `y`: the upright head seen from the front, before it turned (for the outline and the hair).
    `u`, `v`: the place on the turned surface (for the features). All in head units.
    """

    def __init__(self, conditions: Conditions, *, size: int) -> None:
        """Turn the head as these conditions say, in a square picture of `size` pixels."""
        self._size = size
        self._conditions = conditions
        self.cos_yaw, self.sin_yaw = turn(conditions.yaw_half_tan)
        self.cos_pitch, self.sin_pitch = turn(conditions.pitch_half_tan)
        self._cos_roll, self._sin_roll = turn(conditions.roll_half_tan)
        self._units = HEAD_UNITS_PER_HALF_PICTURE / conditions.scale
        self.pixel = 2 * self._units / size

        place = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(self.pixel)
        across = (place - np.float32(self._units * (1 + conditions.shift_x)))[None, :]
        down = (place - np.float32(self._units * (1 + conditions.shift_y)))[:, None]
        cosine, sine = np.float32(self._cos_roll), np.float32(self._sin_roll)
        self.x: Plane = across * cosine + down * sine
        self.y: Plane = down * cosine - across * sine

        flat_x = self.x * np.float32(1 / ACROSS)
        flat_y = self.y * np.float32(1 / DOWN)
        facing = np.float32(1) - flat_x * flat_x - flat_y * flat_y
        depth = np.sqrt(np.maximum(facing, np.float32(LEAST_FACING))) * np.float32(DEPTH)
        self.u: Plane = self.x * np.float32(self.cos_yaw) - depth * np.float32(self.sin_yaw)
        self.v: Plane = self.y * np.float32(self.cos_pitch) - depth * np.float32(self.sin_pitch)

    def box(self, u: float, v: float, reach: float) -> Box:
        """The pixels within `reach` head units of a place on the face (some more for safety)."""
        facing = max(1 - (u / ACROSS) ** 2 - (v / DOWN) ** 2, LEAST_FACING)
        depth = math.sqrt(facing) * DEPTH
        x = u * self.cos_yaw + depth * self.sin_yaw
        y = v * self.cos_pitch + depth * self.sin_pitch
        across = x * self._cos_roll - y * self._sin_roll
        down = x * self._sin_roll + y * self._cos_roll
        column = (across / self._units + 1 + self._conditions.shift_x) * self._size / 2
        row = (down / self._units + 1 + self._conditions.shift_y) * self._size / 2
        radius = 1.2 * reach / self.pixel + 1.5
        return self._span(row, radius), self._span(column, radius)

    def _span(self, centre: float, radius: float) -> slice:
        start = min(max(math.floor(centre - radius), 0), self._size)
        stop = min(max(math.ceil(centre + radius), start), self._size)
        return slice(start, stop)


def turn(half_tan: float) -> tuple[float, float]:
    """Cosine and sine of an angle, from the tangent of its half."""
    square = half_tan * half_tan
    return (1 - square) / (1 + square), 2 * half_tan / (1 + square)


def turned(x: Plane, y: Plane, half_tan: float) -> tuple[Plane, Plane]:
    """Coordinates along axes turned clockwise by twice the arc tangent of `half_tan`."""
    cosine, sine = (np.float32(value) for value in turn(half_tan))
    return x * cosine + y * sine, y * cosine - x * sine
