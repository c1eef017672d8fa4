import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.align import (
    FACE_112,
    FRONTAL_FIT,
    LEAST_FIT,
    Crop,
    centred,
    fit_similarity,
    leaves_as_is,
    warp,
)
from data_pipeline.errors import DataError
from tests.data_pipeline.pictures import pixels

CROP = Crop(112, 112)
IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
ANGLES = st.floats(-math.pi, math.pi)
SCALES = st.floats(0.05, 20.0)
SHIFTS = st.floats(-500.0, 500.0)
COORDINATES = st.floats(0.0, 250.0)
SEEDS = st.integers(0, 10_000)


def similarity(angle, scale, x, y):
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def moved(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(points, face):
    """The published solution by singular values, in float64, without mirroring."""
    a, b = points - points.mean(0), face - face.mean(0)
    u, d, vt = np.linalg.svd(b.T @ a / len(a))
    s = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u * s @ vt
    scale = (d * s).sum() / (a * a).sum() * len(a)
    shift = face.mean(0) - scale * turn @ points.mean(0)
    return np.concatenate((scale * turn, shift[:, None]), axis=1)


def sampled(image, matrix, crop):
    """The crop in float64, each pixel by itself: the definition of bilinear sampling."""
    height, width, _ = image.shape
    inverse = np.linalg.inv(np.vstack((matrix, (0, 0, 1))))
    out = np.zeros((crop.height, crop.width, 3))
    for row in range(crop.height):
        for column in range(crop.width):
            x, y, _ = inverse @ (column, row, 1)
            for at_y in (math.floor(y), math.floor(y) + 1):
                for at_x in (math.floor(x), math.floor(x) + 1):
                    if 0 <= at_x < width and 0 <= at_y < height:
                        share = (1 - abs(x - at_x)) * (1 - abs(y - at_y))
                        out[row, column] += share * image[at_y, at_x]
    return out


def test_points_that_lie_where_they_belong_need_no_transform():
    for name in ("112", "112x96", "128", "224", "256"):
        crop = Crop.of(name)
        fitted = fit_similarity(crop.face[None], crop.face)
        # A mean of five numbers near 200 and its product with 1 + 1e-16 round a few times.
        np.testing.assert_allclose(fitted.matrix[0], IDENTITY, rtol=0, atol=2e-13)
        assert fitted.fit[0] == pytest.approx(1, abs=1e-15)


@given(ANGLES, SCALES, SHIFTS, SHIFTS)
def test_a_turned_scaled_and_shifted_face_is_brought_back(angle, scale, x, y):
    points = moved(similarity(angle, scale, x, y), FACE_112)
    fitted = fit_similarity(points[None], FACE_112)
    # 2e-14 for faces of the crop's size and place; the points' own rounding grows with their
    # distance from the origin in units of the face.
    reach = 1 + np.abs(points).max() / (50 * scale)
    np.testing.assert_allclose(
        moved(fitted.matrix[0], points), FACE_112, rtol=0, atol=2e-13 * reach
    )
    assert fitted.usable[0]


@given(st.lists(COORDINATES, min_size=10, max_size=10).map(np.array))
def test_the_closed_form_is_umeyamas_solution(numbers):
    points = numbers.reshape(5, 2)
    fitted = fit_similarity(points[None], FACE_112)
    if fitted.fit[0] < 0.05:
        return  # nearly the same points, or points that no turn brings nearer: any is as good
    expected = umeyama(points, FACE_112)
    # Both solve the same equations; their coefficients reach 112 / spread.
    np.testing.assert_allclose(
        fitted.matrix[0], expected, rtol=0, atol=1e-9 * np.abs(expected).max()
    )


@given(SEEDS)
def test_the_fit_says_how_much_of_the_face_is_missed(seed):
    points = np.random.default_rng(seed).uniform(0, 250, (5, 2))
    fitted = fit_similarity(points[None], FACE_112)
    left = ((moved(fitted.matrix[0], points) - FACE_112) ** 2).sum()
    share = left / ((FACE_112 - FACE_112.mean(0)) ** 2).sum()
    assert 1 - fitted.fit[0] ** 2 == pytest.approx(share, abs=1e-12)


def test_faces_of_a_batch_do_not_touch_each_other():
    points = np.random.default_rng(0).uniform(0, 250, (20, 5, 2))
    points[3] = 7.0
    points[8, 2, 0] = np.nan
    together = fit_similarity(points, FACE_112)
    for i in range(20):
        alone = fit_similarity(points[i : i + 1], FACE_112)
        np.testing.assert_array_equal(together.matrix[i], alone.matrix[0])
        assert together.fit[i] == alone.fit[0]
    assert fit_similarity(points[:0], FACE_112).matrix.shape == (0, 2, 3)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.full((5, 2), -1.0),
        np.full((5, 2), 1e6 / 3),
        np.full((5, 2), np.nan),
        np.where(np.arange(10).reshape(5, 2) == 3, np.inf, FACE_112),
        np.where(np.arange(10).reshape(5, 2) == 9, np.nan, FACE_112),
    ],
)
def test_points_that_are_none_have_no_matrix(points):
    fitted = fit_similarity(points[None], FACE_112)
    assert not fitted.usable[0]
    assert fitted.fit[0] == 0
    assert np.isnan(fitted.matrix).any()


def test_left_and_right_swapped_are_no_face():
    swapped = FACE_112[[1, 0, 2, 4, 3]]  # left as the person sees it
    fitted = fit_similarity(np.stack((swapped, FACE_112 * (-1, 1))), FACE_112)
    assert fitted.fit == pytest.approx([0.23, 0.23], abs=0.01)
    assert not fitted.usable.any()


def test_points_in_another_order_do_not_look_like_a_face_from_the_front():
    first_all_x = FACE_112.T.reshape(5, 2)
    nose_last = FACE_112[[0, 1, 3, 4, 2]]
    nose_first = FACE_112[[2, 0, 1, 3, 4]]
    fitted = fit_similarity(np.stack((first_all_x, nose_last, nose_first)), FACE_112)
    assert (fitted.fit < FRONTAL_FIT).all()


@pytest.mark.parametrize(("angle", "least"), [(0, 0.99), (45, 0.9), (90, 0.7)])
def test_turned_heads_are_faces(angle, least):
    # A nose that stands out by a third of the distance of the eyes, seen without perspective.
    depth = np.array([0, 0, 12.0, 0, 0])
    turn = math.radians(angle)
    points = FACE_112.copy()
    points[:, 0] = (FACE_112[:, 0] - 56) * math.cos(turn) + depth * math.sin(turn)
    assert fit_similarity(points[None], FACE_112).fit[0] > max(least, LEAST_FIT)


def test_faces_lie_where_the_published_crops_have_them():
    assert [Crop.of(name) for name in ("112", "112x112", "112x96")] == [CROP, CROP, Crop(112, 96)]
    # The sheet of methods: distance of the eyes, middle of the eyes, of the mouth, of all.
    face = CROP.face
    assert math.dist(face[0], face[1]) == pytest.approx(35.2377, abs=1e-4)
    assert face[:2].mean(0) == pytest.approx((55.913, 51.599), abs=1e-3)
    assert face[3:].mean(0) == pytest.approx((56.140, 92.285), abs=1e-3)
    assert face.mean(0) == pytest.approx((56.026, 71.901), abs=1e-3)
    np.testing.assert_allclose(Crop.of("112x96").face, face - np.array((8, 0)))
    np.testing.assert_allclose(Crop.of("128").face, face + np.array((8, 0)))
    np.testing.assert_allclose(Crop.of("224").face, 2 * face)
    np.testing.assert_allclose(Crop.of("256").face, 2 * face + np.array((16, 0)))


@pytest.mark.parametrize("name", ["", "0", "100", "96x112", "112x112x3", "-112", "112x", "٣"])
def test_crops_without_a_known_face_are_refused(name):
    with pytest.raises(DataError, match="112x96"):
        Crop.of(name)


@given(SEEDS, ANGLES, st.floats(0.2, 3.0), st.floats(-30, 30), st.floats(-30, 30))
def test_crops_are_the_definition_rounded(seed, angle, scale, x, y):
    crop = Crop(12, 9)
    image = np.random.default_rng(seed).integers(0, 256, (17, 14, 3), dtype=np.uint8)
    matrix = similarity(angle, scale, x, y)
    made = warp(image, matrix, crop)
    # Rounded to the nearest whole number; 1e-3 for shares and sums in float32 (255 * 2^-24 each).
    assert np.abs(made - sampled(image, matrix, crop)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.9])
@pytest.mark.parametrize("angle", [-0.7, 0.2])
def test_crops_are_opencvs(scale, angle):
    import cv2

    matrix = similarity(angle, scale, 12.3, -4.6)
    theirs = cv2.warpAffine(pixels(3, 160), matrix, (112, 96), borderValue=(0.0,))
    # 1 for rounding. (OpenCV 4 rounds places to 1/32 of a pixel, across which this picture changes
    # by less than 0.5, but the edge to black by up to 4: its edge is left out.)
    inside = (
        cv2.warpAffine(
            np.ones((158, 158)),
            matrix @ np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]),
            (112, 96),
        )
        == 1
    )
    assert inside.mean() > 0.1
    step = np.abs(warp(pixels(3, 160), matrix, Crop(96, 112)).astype(int) - theirs)
    assert step[inside].max() <= 1


def test_whole_shifts_move_pixels_without_changing_them():
    image = pixels(1, 40)
    crop = Crop(20, 30)
    made = warp(image, np.array([[1.0, 0.0, -5.0], [0.0, 1.0, -7.0]]), crop)
    np.testing.assert_array_equal(made, image[7:27, 5:35])
    np.testing.assert_array_equal(warp(image, IDENTITY, Crop(40, 40)), image)


def test_a_quarter_turn_is_exact():
    image = pixels(2, 33)
    matrix = np.array([[0.0, -1.0, 32.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(warp(image, matrix, Crop(33, 33)), np.rot90(image, -1))


def test_outside_of_the_image_everything_is_black():
    image = np.full((10, 10, 3), 200, np.uint8)
    made = warp(image, np.array([[1.0, 0.0, 5.5], [0.0, 1.0, 5.0]]), Crop(20, 20))
    assert made[5, 5].tolist() == [100] * 3  # half of the pixel at the edge, half of nothing
    assert made[5, 15].tolist() == [100] * 3
    assert (made[5:15, 6:15] == 200).all()
    made[5:15, 5:16] = 0
    assert not made.any()
    assert not warp(image, np.array([[1.0, 0.0, 1e6], [0.0, 1.0, 0.0]]), Crop(20, 20)).any()


@given(st.integers(2, 400), st.integers(2, 400), st.sampled_from(["112", "112x96", "128"]))
def test_the_middle_of_an_image_fills_the_crop(height, width, name):
    crop = Crop.of(name)
    matrix = centred(height, width, crop)
    assert (warp(np.full((height, width, 3), 255, np.uint8), matrix, crop) == 255).all()
    middle = moved(matrix, np.array([((width - 1) / 2, (height - 1) / 2)]))[0]
    assert middle == pytest.approx(((crop.width - 1) / 2, (crop.height - 1) / 2), abs=1e-9)
    corner = moved(matrix, np.array([(0.0, 0.0)]))[0]  # no more is cut off than must be
    assert corner.max() == pytest.approx(0, abs=1e-9)


def test_the_middle_of_a_single_pixel_can_be_taken():
    crop = warp(np.full((1, 1, 3), 255, np.uint8), centred(1, 1, CROP), CROP)
    assert crop.shape == (112, 112, 3)


def test_an_image_of_the_crops_size_is_its_own_middle():
    assert leaves_as_is(centred(112, 96, Crop.of("112x96")), 112, 96, Crop.of("112x96"))
    assert not leaves_as_is(centred(112, 97, Crop.of("112x96")), 112, 97, Crop.of("112x96"))
    assert not leaves_as_is(IDENTITY, 113, 112, CROP)
