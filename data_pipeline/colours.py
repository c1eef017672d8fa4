"""What brightness, contrast, saturation and hue do to a face: one matrix and one offset.

Pure functions of the parameters of `augment`, for pixels from -1 to 1. Nothing is rounded or
clipped, so colours may step over +-1.
"""

import numpy as np
from jaxtyping import Float32

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue are
_TO_YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])  # NTSC, 1953
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def transform(
    *,
    brightness: Float32[np.ndarray, " batch"],
    contrast: Float32[np.ndarray, " batch"],
    saturation: Float32[np.ndarray, " batch"],
    hue_deg: Float32[np.ndarray, " batch"],
) -> tuple[Float32[np.ndarray, "batch 3 3"], Float32[np.ndarray, " batch"]]:
    """(matrix, offset) of each face: a pixel z becomes `matrix @ z + offset`.

    First the colours turn and fade, which leaves greys as they are; then all levels are multiplied
    by the brightness, and their distance from mid-grey by the contrast. In levels x = 127.5 (z + 1)
    that is 127.5 + contrast * (brightness * fade(x) - 127.5).
    """
    turn = np.deg2rad(hue_deg.astype(np.float64))
    cosine, sine = saturation * np.cos(turn), saturation * np.sin(turn)
    fade = np.zeros((len(turn), 3, 3))
    fade[:, 0, 0] = 1
    fade[:, 1, 1] = fade[:, 2, 2] = cosine
    fade[:, 1, 2], fade[:, 2, 1] = -sine, sine
    gain = brightness.astype(np.float64) * contrast
    matrix = gain[:, None, None] * (_FROM_YIQ @ fade @ _TO_YIQ)
    offset = contrast * (brightness.astype(np.float64) - 1)
    return matrix.astype(np.float32), offset.astype(np.float32)
