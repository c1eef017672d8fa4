"""Photograph a painted face: light, white balance, blur, noise, bytes."""

import numpy as np

from data_pipeline import keyed
from data_pipeline.synthetic_canvas import Canvas, soften
from data_pipeline.synthetic_pose import Pose
from data_pipeline.synthetic_traits import Conditions


def photograph(
    canvas: Canvas, pose: Pose, scene: Conditions, *, key: tuple[int, ...]
) -> np.ndarray:
    """The canvas as a camera would give it, uint8 [size, size, 3]; noise is keyed by `key`."""
    pixels = canvas.pixels
    slope_x = np.float32(scene.light_x * scene.light_strength / 0.9)
    slope_y = np.float32(scene.light_y * scene.light_strength / 0.9)
    light = np.maximum(pose.x * slope_x + pose.y * slope_y + np.float32(1), np.float32(0.15))
    grey = (pixels[0] + pixels[1] + pixels[2]) * np.float32(1 / 3)
    cast = (scene.cast_red, scene.cast_green, scene.cast_blue)
    for plane, gain in zip(pixels, cast, strict=True):
        plane -= grey
        plane *= np.float32(scene.saturation)
        plane += grey
        plane *= light
        plane -= np.float32(0.5)
        plane *= np.float32(scene.contrast)
        plane += np.float32(0.5)
        plane *= np.float32(scene.exposure * gain)
    if scene.blur > 0:
        size = pixels.shape[1]
        for _ in range(max(round(size / 48), 1)):
            pixels = soften(pixels, 0.67 * scene.blur)
    pixels = pixels + _noise(pixels.shape[1], key) * np.float32(scene.noise)
    pixels = np.minimum(np.maximum(pixels, np.float32(0)), np.float32(1))
    pixels *= np.float32(255)
    pixels += np.float32(0.5)
    return np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def _noise(size: int, key: tuple[int, ...]) -> np.ndarray:
    """Grain [3, size, size] of variance 1: the sum of two evenly spread numbers, ten bits each."""
    bits = keyed.hash64("face noise", *key, np.arange(size * size)).reshape(size, size)
    grain = np.empty((3, size, size), np.float32)
    mask = np.uint64(1023)
    for plane, shift in zip(grain, (0, 20, 40), strict=True):
        plane[...] = ((bits >> np.uint64(shift)) & mask) + ((bits >> np.uint64(shift + 10)) & mask)
    grain -= np.float32(1023)
    grain *= np.float32(1 / 418.0)  # the standard deviation of that sum: sqrt((1024^2 - 1) / 6)
    return grain
