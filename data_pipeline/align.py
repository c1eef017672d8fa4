"""Turning a face upright: from five points to a crop in which eyes, nose and mouth lie as expected.

Points are left eye, right eye, nose, left and right corner of the mouth; left is the image's, not
the person's. They are (x, y) with whole numbers at the centres of pixels, (0, 0) that of the upper
left one, in the image as it is looked at (after EXIF's turn).

A transform is a 2 x 3 matrix from the image to the crop, as OpenCV's `warpAffine` takes it, and the
crop is sampled as that does: bilinear, black outside of the image, and without a low-pass filter
before shrinking, because published networks are trained on such crops.

Only sums and products of float64 and float32 are used here, so that every machine gets the same.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipeline.errors import DataError

FACE_112 = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)  # of a crop of 112 x 112: insightface's `arcface_dst`
NARROWER_BY = 8.0  # columns that 112 x 96 lacks on either side
WIDER_BY = 8.0  # and that 128 x 128 adds on the left; below its chin lie all of its 16 rows

LEAST_FIT = 0.5
"""Of points that are a face's. A flat face has 0.76 turned into profile and 0.62 nodded as far, but
0.23 where left and right are swapped; the median of random points is 0.45."""
FRONTAL_FIT = 0.9
"""Of faces turned by less than 74 degrees; points in a wrong order (all x before all y, the nose
first or last) stay below 0.82 on each of 100 photographs."""


@dataclass(frozen=True)
class Crop:
    """The size of a crop in pixels; `Crop.of("112x96")` reads one."""

    height: int
    width: int

    @classmethod
    def of(cls, text: str) -> "Crop":
        """`HEIGHTxWIDTH`, or one number of a square; `DataError` where no face is known for it."""
        sides = text.split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
            raise DataError(f"a crop is named like 112 or 112x96 (height x width), not {text!r}")
        crop = cls(int(sides[0]), int(sides[-1]))
        _ = crop.face
        return crop

    @property
    def face(self) -> Float64[np.ndarray, "5 2"]:
        """Where a face's points belong: as insightface and those who follow it place them."""
        height, width = self.height, self.width
        if 0 < height == width and height % 112 == 0:
            return FACE_112 * (height / 112)
        if 0 < height == width and height % 128 == 0:
            return (FACE_112 + np.array((WIDER_BY, 0.0))) * (height / 128)
        if (height, width) == (112, 96):
            return FACE_112 - np.array((NARROWER_BY, 0.0))
        raise DataError(
            f"nobody has said where a face lies in a crop of {height} x {width}; use 112, 112x96, "
            "128 or squares whose side is a multiple of 112 or 128"
        )

    def __str__(self) -> str:
        """As `of` reads it."""
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Fitted:
    """Transforms, and how well they bring points to where they belong."""

    matrix: Float64[np.ndarray, "faces 2 3"]
    """NaN where the points are not finite or all the same."""
    fit: Float64[np.ndarray, " faces"]
    """1 for points that arrive exactly, down to 0; also 0 where there is no matrix."""

    @property
    def usable(self) -> Bool[np.ndarray, " faces"]:
        """Whether the points are those of a face."""
        return self.fit >= LEAST_FIT


def fit_similarity(
    points: Float64[np.ndarray, "faces 5 2"], face: Float64[np.ndarray, "5 2"]
) -> Fitted:
    """The turn, scale and shift that bring points nearest to those of `face`, by least squares.

    The closed form of Umeyama's solution (IEEE PAMI 13, 1991) for two dimensions and no mirroring.
    The fit is the correlation that least squares leave: 1 - fit^2 is the share of the face's
    spread that the transformed points miss.
    """
    finite = np.isfinite(points).all(axis=(1, 2), keepdims=True)
    points = np.where(finite, points, 0.0)  # then all the same
    centre, face_centre = points.mean(axis=1), face.mean(axis=0)
    a, b = points - centre[:, None], face - face_centre
    spread, face_spread = (a * a).sum(axis=(1, 2)), (b * b).sum()
    # The mean of equal points rounds, so that they may keep a spread of some ulps.
    exists = spread > (1e-12 * np.abs(points).max(axis=(1, 2), initial=0.0)) ** 2
    along = (a * b).sum(axis=(1, 2))
    across = (a[:, :, 0] * b[:, 1] - a[:, :, 1] * b[:, 0]).sum(axis=1)
    divisor = np.where(exists, spread, np.nan)
    p, q = along / divisor, across / divisor
    x, y = centre[:, 0], centre[:, 1]
    first = np.stack((p, -q, face_centre[0] - (p * x - q * y)), axis=1)
    second = np.stack((q, p, face_centre[1] - (q * x + p * y)), axis=1)
    fit = np.sqrt((p * p + q * q) * divisor / face_spread)
    return Fitted(matrix=np.stack((first, second), axis=1), fit=np.where(exists, fit, 0.0))


def centred(height: int, width: int, crop: Crop) -> Float64[np.ndarray, "2 3"]:
    """Scale an image until its outermost pixels reach those of the crop, and take its middle."""
    scale = max((crop.height - 1) / max(height - 1, 1), (crop.width - 1) / max(width - 1, 1))
    across, down = (
        (side - 1) / 2 - scale * (whole - 1) / 2
        for side, whole in ((crop.width, width), (crop.height, height))
    )
    return np.array([[scale, 0.0, across], [0.0, scale, down]])


def leaves_as_is(matrix: Float64[np.ndarray, "2 3"], height: int, width: int, crop: Crop) -> bool:
    """Whether an image is its own crop already."""
    identity = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return (height, width) == (crop.height, crop.width) and bool((matrix == identity).all())


def warp(
    image: UInt8[np.ndarray, "height width 3"], matrix: Float64[np.ndarray, "2 3"], crop: Crop
) -> UInt8[np.ndarray, "crop_height crop_width 3"]:
    """The crop that a transform, which can be undone, takes from an image."""
    height, width, _ = image.shape
    pixels = image.reshape(-1, 3)
    x, y = _places(matrix, crop)
    columns, rows = _neighbours(x, width), _neighbours(y, height)
    mixed = np.zeros((crop.height, crop.width, 3), np.float32)
    for row, row_weight in rows:
        for column, column_weight in columns:
            weight = row_weight * column_weight
            mixed += pixels.take(row * width + column, axis=0) * weight[:, :, None]
    return np.rint(mixed).astype(np.uint8)


def _places(
    matrix: Float64[np.ndarray, "2 3"], crop: Crop
) -> tuple[Float64[np.ndarray, "rows columns"], Float64[np.ndarray, "rows columns"]]:
    """Where in the image each pixel of the crop looks: x and y."""
    (a, b, across), (c, d, down) = matrix.tolist()
    determinant = a * d - b * c
    column = np.arange(crop.width, dtype=np.float64) - across
    row = (np.arange(crop.height, dtype=np.float64) - down)[:, None]
    return (d * column - b * row) / determinant, (a * row - c * column) / determinant


def _neighbours(
    place: Float64[np.ndarray, "rows columns"], side: int
) -> list[tuple[np.ndarray, Float32[np.ndarray, "rows columns"]]]:
    """The two pixels around each place, and their shares: none for a pixel outside."""
    before = np.floor(place)
    share = place - before
    return [
        (
            np.clip(pixel, 0, side - 1).astype(np.intp),
            np.where((pixel >= 0) & (pixel < side), weight, 0).astype(np.float32),
        )
        for pixel, weight in ((before, 1 - share), (before + 1, share))
    ]
